import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.MockProducer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.internals.StreamTask;

/**
 * Kafka Streams' side of `scripts/bench.sh operators`: one operator over the records that benches/operators.rs makes, in
 * Kafka Streams' own task (`StreamTask`, taken out of a TopologyTestDriver, which would commit after every record), with
 * its usual RocksDB stores and changelog records, which go to Kafka's MockProducer.
 *
 * <pre>
 *   Peer bench OPERATOR --events N --warm N --keys N --checkpoint N --cache BYTES      prints nanoseconds per event
 * </pre>
 *
 * Measured is the CPU time of the whole process (JIT, collector and RocksDB included) without the making of the records.
 */
@SuppressWarnings({"unchecked", "rawtypes"})
final class Bench {
    private static final long START = 1_700_000_000_000L;
    private static final int BATCH = 500;
    private static final int VALUE = 128;
    private static final ThreadMXBean THREADS = ManagementFactory.getThreadMXBean();
    private static final com.sun.management.OperatingSystemMXBean PROCESS =
        (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private final String operator;
    private final long keys;
    private long seed = 42;
    private long made = 0;
    private long out = 0;

    private Bench(String operator, long keys) {
        this.operator = operator;
        this.keys = keys;
    }

    static void main(List<String> args) throws Exception {
        String operator = args.get(0);
        long events = option(args, "--events");
        long warm = option(args, "--warm");
        long checkpoint = option(args, "--checkpoint");
        long cache = option(args, "--cache");
        new Bench(operator, option(args, "--keys")).run(events, warm, checkpoint, cache);
        // RocksDB's threads would be joined: nothing is left to save.
        Runtime.getRuntime().halt(0);
    }

    private static long option(List<String> args, String name) {
        int at = args.indexOf(name);
        if (at < 0) {
            throw new IllegalArgumentException(name + " is missing");
        }
        return Long.parseLong(args.get(at + 1));
    }

    private void count(Object ignored) {
        out++;
    }

    private Topology topology() {
        StreamsBuilder builder = new StreamsBuilder();
        Serde<String> text = Serdes.String();
        // Nobody looks into the values, so they stay bytes.
        Consumed<String, byte[]> raw = Consumed.with(text, Serdes.ByteArray());
        Materialized counts = Materialized.with(text, Serdes.Long());
        TimeWindows tumbling = TimeWindows.ofSizeAndGrace(Duration.ofSeconds(10), Duration.ofSeconds(1));
        switch (operator) {
            case "stateless" -> builder.stream("in", Consumed.with(text, Json.serde()))
                .filter((key, value) -> value.get("amount").asLong() > 100)
                .selectKey((key, value) -> value.get("event").asText())
                .foreach((key, value) -> count(value));
            case "count" -> builder.stream("in", raw)
                .groupByKey(Grouped.with(text, Serdes.ByteArray()))
                .count(counts).toStream().foreach((key, value) -> count(value));
            case "tumbling" -> builder.stream("in", raw)
                .groupByKey(Grouped.with(text, Serdes.ByteArray()))
                .windowedBy(tumbling)
                .count(counts).toStream().foreach((key, value) -> count(value));
            case "session" -> builder.stream("in", raw)
                .groupByKey(Grouped.with(text, Serdes.ByteArray()))
                .windowedBy(SessionWindows.ofInactivityGapAndGrace(Duration.ofSeconds(5), Duration.ofSeconds(1)))
                .count(counts).toStream().foreach((key, value) -> count(value));
            case "suppress" -> {
                KTable<Windowed<String>, Long> table = builder.stream("in", raw)
                    .groupByKey(Grouped.with(text, Serdes.ByteArray()))
                    .windowedBy(tumbling)
                    .count(counts);
                table.suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded()))
                    .toStream().foreach((key, value) -> count(value));
            }
            case "stream-table" -> {
                KTable<String, JsonNode> table = builder.table("rows", Consumed.with(text, Json.serde()));
                builder.stream("in", Consumed.with(text, Json.serde()))
                    .join(table, (left, right) -> {
                        ObjectNode both = Json.MAPPER.createObjectNode();
                        both.set("n", left.get("n"));
                        both.set("plan", right.get("plan"));
                        return (JsonNode) both;
                    }, Joined.with(text, Json.serde(), Json.serde()))
                    // What a sink would have to write.
                    .foreach((key, value) -> count(Json.bytes(value)));
            }
            default -> throw new IllegalArgumentException("no such operator: " + operator);
        }
        return builder.build();
    }

    /** The same records as `Feed` in benches/operators.rs. */
    private ConsumerRecord<byte[], byte[]> record(String topic, long key, long offset) {
        long amount = made % 1000;
        String start = "{\"event\":\"changed\",\"n\":" + made + ",\"amount\":" + amount + ",\"paid\":" + (amount % 10 != 0)
            + ",\"plan\":{\"name\":\"pro\"},\"note\":\"";
        byte[] value = new byte[VALUE];
        Arrays.fill(value, (byte) 'x');
        byte[] head = start.getBytes(StandardCharsets.US_ASCII);
        System.arraycopy(head, 0, value, 0, head.length);
        value[VALUE - 2] = '"';
        value[VALUE - 1] = '}';
        byte[] name = "account-000000000000".getBytes(StandardCharsets.US_ASCII);
        for (int at = name.length - 1; key > 0; key /= 10) {
            name[at--] = (byte) ('0' + key % 10);
        }
        return new ConsumerRecord<>(
            topic, 0, offset, START + made / 10, TimestampType.CREATE_TIME, name.length, value.length, name, value,
            new RecordHeaders(), Optional.empty());
    }

    private List<ConsumerRecord<byte[], byte[]>> batch() {
        List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>(BATCH);
        for (int n = 0; n < BATCH; n++) {
            seed = seed * 6_364_136_223_846_793_005L + 1_442_695_040_888_963_407L;
            // The high half of the unsigned product.
            long key = Math.multiplyHigh(seed, keys) + (seed < 0 ? keys : 0);
            records.add(record("in", key, made));
            made++;
        }
        return records;
    }

    private static Object field(Object of, Class<?> type, String name) throws ReflectiveOperationException {
        Field field = type.getDeclaredField(name);
        field.setAccessible(true);
        return field.get(of);
    }

    private void run(long events, long warm, long checkpoint, long cache) throws Exception {
        Path state = Files.createTempDirectory("kafka-streams-bench");
        Properties properties = Peer.properties(state, "rocksdb", cache);
        // A partition without records is not waited for.
        properties.put(StreamsConfig.MAX_TASK_IDLE_MS_CONFIG, -1L);
        TopologyTestDriver driver = new TopologyTestDriver(topology(), properties);
        StreamTask task = (StreamTask) field(driver, TopologyTestDriver.class, "task");
        MockProducer<byte[], byte[]> producer =
            (MockProducer<byte[], byte[]>) field(driver, TopologyTestDriver.class, "producer");
        if (operator.equals("stream-table")) {
            for (long key = 0; key < keys; key++) {
                task.addRecords(new TopicPartition("rows", 0), List.of(record("rows", key, key)));
                drain(task, producer);
            }
            commit(task, producer);
        }
        long next = checkpoint;
        long cpu = 0;
        long measured = 0;
        for (long fed = 0; fed < warm + events; fed += BATCH) {
            boolean counts = fed >= warm;
            if (counts && measured == 0) {
                cpu = PROCESS.getProcessCpuTime();
            }
            long before = THREADS.getCurrentThreadCpuTime();
            List<ConsumerRecord<byte[], byte[]>> records = batch();
            if (counts) {
                cpu += THREADS.getCurrentThreadCpuTime() - before;
                measured += BATCH;
            }
            task.addRecords(new TopicPartition("in", 0), records);
            drain(task, producer);
            if (fed + BATCH >= next) {
                next += checkpoint;
                commit(task, producer);
            }
        }
        double nanos = (PROCESS.getProcessCpuTime() - cpu) / (double) measured;
        System.out.printf("%.1f %.3f%n", nanos, out / (double) made);
    }

    private static void drain(StreamTask task, MockProducer<byte[], byte[]> producer) {
        while (task.process(System.currentTimeMillis())) {
            // as many as there are
        }
        task.maybePunctuateStreamTime();
        // It keeps what it is given, for tests.
        producer.clear();
    }

    private static void commit(StreamTask task, MockProducer<byte[], byte[]> producer) {
        task.prepareCommit(true);
        task.postCommit(false);
        producer.clear();
    }
}
