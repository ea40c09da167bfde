import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.LongNode;
import com.fasterxml.jackson.databind.node.NullNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Branched;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.GlobalKTable;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Reducer;
import org.apache.kafka.streams.kstream.SessionWindowedKStream;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.SlidingWindows;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindowedKStream;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.ValueJoiner;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.Stores;

/**
 * A topology of Kafka Streams from a file of slackwater: the subset that the differential test and the bench write. Keys
 * are strings, values JSON. Whatever is not known here is an error, so that no setting is passed over in silence.
 */
@SuppressWarnings({"unchecked", "rawtypes"})
final class Plan {
    /** Gets what a sink gets. */
    interface Capture {
        void record(String sink, Object key, Object value, long timestamp);
    }

    private static final Serde<String> TEXT = Serdes.String();
    private final StreamsBuilder builder = new StreamsBuilder();
    private final Map<String, Object> nodes = new HashMap<>();
    private final Capture capture;
    private final boolean keeps;
    private final boolean updates;

    private Plan(Capture capture, boolean keeps, boolean updates) {
        this.capture = capture;
        this.keeps = keeps;
        this.updates = updates;
    }

    /**
     * `keeps`: stores of windows keep what their operators still take, which by default they do not. `updates`: as if
     * `emit: final` were not there.
     */
    static Topology build(JsonNode file, Capture capture, boolean keeps, boolean updates) {
        Plan plan = new Plan(capture, keeps, updates);
        file.path("sources").properties().forEach(e -> plan.source(e.getKey(), e.getValue()));
        file.path("operators").properties().forEach(e -> plan.operator(e.getKey(), e.getValue()));
        file.path("sinks").properties().forEach(e -> plan.sink(e.getKey(), plan.stream(e.getValue().get("from").asText())));
        return plan.builder.build();
    }

    static Duration duration(JsonNode text) {
        return text == null ? Duration.ZERO : Duration.ofMillis(Long.parseLong(text.asText().replaceFirst("ms$", "")));
    }

    /** A session takes records until stream time is past end + gap + grace; by default it is gone one tick before. */
    private Duration retention(JsonNode window) {
        if (!keeps) {
            return null;
        }
        return window.has("session")
            ? duration(window.get("session")).plus(duration(window.get("grace"))).plusMillis(1)
            : Duration.ofDays(1);
    }

    private void source(String name, JsonNode source) {
        String topic = source.get("kafka").get("topic").asText();
        JsonNode table = source.get("table");
        if (table == null) {
            nodes.put(name, builder.stream(topic));
        } else if (table.path("global").asBoolean()) {
            nodes.put(name, builder.globalTable(topic));
        } else if (table.has("versions")) {
            var store = Stores.persistentVersionedKeyValueStore(name + "-rows", duration(table.get("versions")));
            nodes.put(name, builder.table(topic, Materialized.<String, JsonNode>as(store)));
        } else {
            nodes.put(name, builder.table(topic));
        }
    }

    private KStream<Object, Object> stream(String name) {
        Object node = nodes.get(name);
        if (node instanceof KTable table) {
            return table.toStream();
        }
        return (KStream<Object, Object>) node;
    }

    private KStream<String, JsonNode> plain(String name) {
        return (KStream) stream(name);
    }

    private void operator(String name, JsonNode node) {
        List<String> from = new ArrayList<>();
        JsonNode names = node.get("from");
        if (names.isArray()) {
            names.forEach(n -> from.add(n.asText()));
        } else {
            from.add(names.asText());
        }
        String first = from.get(0);
        for (Map.Entry<String, JsonNode> entry : node.properties()) {
            JsonNode config = entry.getValue();
            switch (entry.getKey()) {
                case "from" -> {}
                case "filter" -> {
                    Expression test = Expression.of(config);
                    nodes.put(name, plain(first).filter(test::test));
                }
                case "map" -> {
                    Expression map = Expression.of(config);
                    nodes.put(name, plain(first).mapValues((key, value) -> map.eval(key, value)));
                }
                case "flat_map" -> {
                    Expression list = Expression.of(config);
                    nodes.put(name, plain(first).flatMapValues((key, value) -> items(list.eval(key, value))));
                }
                case "key_by" -> {
                    Expression by = Expression.of(config);
                    nodes.put(name, plain(first).selectKey(by::text));
                }
                case "merge" -> {
                    KStream<String, JsonNode> all = plain(first);
                    for (String more : from.subList(1, from.size())) {
                        all = all.merge(plain(more));
                    }
                    nodes.put(name, all);
                }
                case "branch" -> {
                    var split = plain(first).split();
                    for (Map.Entry<String, JsonNode> branch : config.properties()) {
                        Expression test = Expression.of(branch.getValue());
                        split = split.branch(
                            test::test, Branched.withConsumer(s -> nodes.put(name + "." + branch.getKey(), s)));
                    }
                    split.noDefaultBranch();
                }
                case "table" -> nodes.put(name, plain(first).toTable());
                case "aggregate" -> {
                    boolean isFinal = config.path("emit").asText().equals("final") && !updates;
                    nodes.put(name, aggregate(plain(first), config, isFinal));
                }
                case "suppress" -> nodes.put(name, ((KTable) nodes.get(first)).suppress(suppressed(config)));
                case "join" -> nodes.put(name, join(nodes.get(first), nodes.get(config.get("with").asText()), config));
                default -> throw new IllegalArgumentException("no such operator here: " + entry.getKey());
            }
        }
    }

    private static List<JsonNode> items(JsonNode list) {
        List<JsonNode> items = new ArrayList<>();
        if (list != null) {
            list.forEach(item -> items.add(Json.nothing(item)));
        }
        return items;
    }

    private KTable<?, ?> aggregate(KStream<String, JsonNode> in, JsonNode config, boolean isFinal) {
        KGroupedStream<String, JsonNode> grouped;
        if (config.has("by")) {
            Expression by = Expression.of(config.get("by"));
            grouped = in.groupBy(by::text, Grouped.with(TEXT, Json.serde()));
        } else {
            grouped = in.groupByKey(Grouped.with(TEXT, Json.serde()));
        }
        Materialized counts = Materialized.with(TEXT, Serdes.Long());
        Materialized values = Materialized.with(TEXT, Json.serde());
        Duration kept = config.has("window") ? retention(config.get("window")) : null;
        if (kept != null) {
            counts = counts.withRetention(kept);
            values = values.withRetention(kept);
        }
        EmitStrategy emit = isFinal ? EmitStrategy.onWindowClose() : EmitStrategy.onWindowUpdate();
        JsonNode window = config.get("window");
        Reducer<JsonNode> reduce = config.has("reduce") ? reducer(config) : null;
        if (window == null) {
            if (config.has("count")) {
                return grouped.count(counts);
            }
            if (reduce != null) {
                return grouped.reduce(reduce, values);
            }
            Functions functions = Functions.of(config);
            return grouped.aggregate(functions.init(), functions.add(), values);
        }
        Duration grace = duration(window.get("grace"));
        if (window.has("session")) {
            SessionWindowedKStream<String, JsonNode> sessions = grouped
                .windowedBy(SessionWindows.ofInactivityGapAndGrace(duration(window.get("session")), grace))
                .emitStrategy(emit);
            if (config.has("count")) {
                return sessions.count(counts);
            }
            if (reduce != null) {
                return sessions.reduce(reduce, values);
            }
            Functions functions = Functions.of(config);
            return sessions.aggregate(functions.init(), functions.add(), functions.merge(), values);
        }
        TimeWindowedKStream<String, JsonNode> windows;
        if (window.has("sliding")) {
            windows = grouped.windowedBy(SlidingWindows.ofTimeDifferenceAndGrace(duration(window.get("sliding")), grace));
        } else if (window.has("tumbling")) {
            windows = grouped.windowedBy(TimeWindows.ofSizeAndGrace(duration(window.get("tumbling")), grace));
        } else {
            windows = grouped.windowedBy(TimeWindows.ofSizeAndGrace(duration(window.get("hopping")), grace)
                .advanceBy(duration(window.get("every"))));
        }
        windows = windows.emitStrategy(emit);
        if (config.has("count")) {
            return windows.count(counts);
        }
        if (reduce != null) {
            return windows.reduce(reduce, values);
        }
        Functions functions = Functions.of(config);
        return windows.aggregate(functions.init(), functions.add(), values);
    }

    private static Reducer<JsonNode> reducer(JsonNode config) {
        Expression step = Expression.of(config.get("reduce"));
        return (acc, value) -> step.eval(new Expression.Scope(null, value, acc, null));
    }

    private static Suppressed suppressed(JsonNode config) {
        String until = config.get("until").asText();
        long max = config.path("max_records").asLong(Long.MAX_VALUE);
        boolean stop = config.path("on_full").asText(until.equals("window_closes") ? "stop" : "emit_early").equals("stop");
        if (until.equals("window_closes")) {
            return Suppressed.untilWindowCloses(max == Long.MAX_VALUE
                ? Suppressed.BufferConfig.unbounded()
                : Suppressed.BufferConfig.unbounded().withMaxRecords(max).shutDownWhenFull());
        }
        Suppressed.BufferConfig bound = max == Long.MAX_VALUE
            ? Suppressed.BufferConfig.unbounded()
            : stop ? Suppressed.BufferConfig.maxRecords(max).shutDownWhenFull() : Suppressed.BufferConfig.maxRecords(max);
        return Suppressed.untilTimeLimit(duration(config.get("until")), bound);
    }

    private Object join(Object left, Object right, JsonNode config) {
        String type = config.path("type").asText("inner");
        ValueJoiner<JsonNode, JsonNode, JsonNode> both = (l, r) -> {
            var out = Json.MAPPER.createObjectNode();
            out.set("left", l == null ? NullNode.instance : l);
            out.set("right", r == null ? NullNode.instance : r);
            return out;
        };
        Duration grace = duration(config.get("grace"));
        if (left instanceof KStream stream && right instanceof KStream other) {
            JsonNode within = config.get("within");
            JoinWindows windows = JoinWindows.ofTimeDifferenceAndGrace(Duration.ZERO, grace)
                .before(duration(within.get("before")))
                .after(duration(within.get("after")));
            StreamJoined how = StreamJoined.with(TEXT, Json.serde(), Json.serde());
            return switch (type) {
                case "left" -> stream.leftJoin(other, both, windows, how);
                case "outer" -> stream.outerJoin(other, both, windows, how);
                default -> stream.join(other, both, windows, how);
            };
        }
        boolean isLeft = type.equals("left");
        Expression on = config.has("on") ? Expression.of(config.get("on")) : null;
        if (left instanceof KStream stream && right instanceof GlobalKTable table) {
            org.apache.kafka.streams.kstream.KeyValueMapper<String, JsonNode, String> key =
                (k, v) -> on == null ? k : on.text(k, v);
            return isLeft ? stream.leftJoin(table, key, both) : stream.join(table, key, both);
        }
        if (left instanceof KStream stream) {
            Joined how = Joined.with(TEXT, Json.serde(), Json.serde());
            if (config.has("grace")) {
                how = how.withGracePeriod(grace);
            }
            KTable table = (KTable) right;
            return isLeft ? stream.leftJoin(table, both, how) : stream.join(table, both, how);
        }
        KTable<String, JsonNode> rows = (KTable) left;
        KTable<String, JsonNode> others = (KTable) right;
        if (on != null) {
            java.util.function.Function<JsonNode, String> key = row -> on.text(null, row);
            return isLeft ? rows.leftJoin(others, key, both) : rows.join(others, key, both);
        }
        return switch (type) {
            case "left" -> rows.leftJoin(others, both);
            case "outer" -> rows.outerJoin(others, both);
            default -> rows.join(others, both);
        };
    }

    private void sink(String name, KStream<Object, Object> from) {
        from.process(() -> new Processor<Object, Object, Void, Void>() {
            @Override
            public void process(Record<Object, Object> record) {
                Object value = record.value() instanceof Long n ? LongNode.valueOf(n) : record.value();
                capture.record(name, record.key(), value, record.timestamp());
            }
        });
    }
}
