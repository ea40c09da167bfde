import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.NullNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.Metric;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.kstream.Windowed;

/**
 * Apache Kafka Streams beside slackwater.
 *
 * <pre>
 *   Peer cases    standard input: a case a line, {"topology": FILE, "store": "memory"|"rocksdb", "updates": BOOLEAN,
 *                 "tables": "as_tables"|"as_streams", "lines": [LINE..]}, FILE a file of slackwater as JSON, LINE an
 *                 input line of `slackwater simulate`; standard output: the output lines of `simulate`, then
 *                 {"end": true}. With `updates`, `emit: final` counts as `emit: update`. `tables`: see Plan. Ends with
 *                 its input. Stores of windows keep what their operators still take (`withRetention`), which by default
 *                 they do not.
 *   Peer bench    see Bench
 * </pre>
 *
 * A drop prints as {"step": n, "dropped": true}: the metric does not say why. A task that stops prints
 * {"step": n, "stopped": MESSAGE}.
 */
public final class Peer {
    private Peer() {}

    public static void main(String[] args) throws Exception {
        if (args.length > 0 && args[0].equals("cases")) {
            cases();
        } else if (args.length > 0 && args[0].equals("bench")) {
            Bench.main(List.of(args).subList(1, args.length));
        } else {
            System.err.println("usage: Peer cases | Peer bench ...");
            System.exit(2);
        }
    }

    static Properties properties(Path state, String store, long cacheBytes) {
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, "peer");
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "none:1");
        p.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
        p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, cacheBytes);
        p.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Keys.KeySerde.class);
        p.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Json.JsonSerde.class);
        if (store.equals("memory")) {
            p.put(
                StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG,
                org.apache.kafka.streams.state.BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class);
        }
        return p;
    }

    /** A directory for state, where the disk is not waited for, if there is such a place. */
    static Path stateDirectory() throws IOException {
        Path memory = Path.of("/dev/shm");
        return Files.isWritable(memory)
            ? Files.createTempDirectory(memory, "kafka-streams-peer")
            : Files.createTempDirectory("kafka-streams-peer");
    }

    private static void cases() throws IOException {
        Path state = stateDirectory();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintWriter out =
            new PrintWriter(new BufferedWriter(new OutputStreamWriter(System.out, StandardCharsets.UTF_8), 1 << 16));
        try {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                run(Json.MAPPER.readTree(line), state, out);
                out.println("{\"end\":true}");
                out.flush();
            }
        } finally {
            try (var files = Files.walk(state)) {
                files.sorted(java.util.Comparator.reverseOrder()).forEach(f -> f.toFile().delete());
            }
        }
    }

    private static void run(JsonNode one, Path state, PrintWriter out) {
        int[] step = {0};
        boolean[] open = {true};
        var topology = Plan.build(one, (sink, key, value, ts) -> {
            if (!open[0]) {
                return;
            }
            ObjectNode line = Json.MAPPER.createObjectNode();
            line.put("step", step[0]).put("to", sink);
            if (key instanceof Windowed<?> windowed) {
                line.putArray("window").add(windowed.window().start()).add(windowed.window().end());
            }
            line.put("key", Keys.text(key));
            line.set("value", value == null ? NullNode.instance : (JsonNode) value);
            line.put("ts", ts);
            out.println(line);
        });
        Properties p = properties(state, one.get("store").asText(), 0);
        // By the driver's clock, which stands still: every record may send what is due.
        p.put("__emit.interval.ms.kstreams.windowed.aggregation__", 0L);
        p.put("__emit.interval.ms.kstreams.outer.join.spurious.results.fix__", 0L);
        TopologyTestDriver driver = new TopologyTestDriver(topology, p, Instant.ofEpochMilli(0));
        try {
            Map<String, TestInputTopic<String, JsonNode>> topics = new HashMap<>();
            List<? extends Metric> drops = driver.metrics().entrySet().stream()
                .filter(e -> e.getKey().name().equals("dropped-records-total"))
                .map(Map.Entry::getValue)
                .toList();
            double seen = 0;
            for (JsonNode line : one.get("lines")) {
                String key = line.get("key").isNull() ? null : line.get("key").asText();
                topics.computeIfAbsent(
                        line.get("topic").asText(),
                        t -> driver.createInputTopic(t, new StringSerializer(), Json.serde().serializer()))
                    .pipeInput(key, Json.nothing(line.get("value")), line.get("ts").asLong());
                double now = drops.stream().mapToDouble(m -> (double) m.metricValue()).sum();
                for (; seen < now; seen++) {
                    out.println("{\"step\":" + step[0] + ",\"dropped\":true}");
                }
                step[0]++;
            }
        } catch (RuntimeException e) {
            Throwable cause = e;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            out.println(Json.MAPPER.createObjectNode().put("step", step[0]).put("stopped", cause.toString()));
        } finally {
            open[0] = false;
            driver.close();
        }
    }
}
