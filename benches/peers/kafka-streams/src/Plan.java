import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.NullNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Aggregator;
import org.apache.kafka.streams.kstream.Branched;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.GlobalKTable;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Initializer;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.Joined;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KGroupedTable;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.KeyValueMapper;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Merger;
import org.apache.kafka.streams.kstream.Reducer;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.kstream.SessionWindowedKStream;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.SlidingWindows;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.Suppressed;
import org.apache.kafka.streams.kstream.TimeWindowedKStream;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.ValueJoiner;
import org.apache.kafka.streams.kstream.ValueMapperWithKey;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.kstream.internals.SessionWindow;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.Stores;

/**
 * A topology of Kafka Streams from a file of slackwater: the subset that the differential test writes. Keys are strings, in
 * windows or not, values JSON. Whatever is not known here is an error, so that no setting is passed over in silence.
 *
 * What a node with `table` is in Kafka Streams has two answers, and `tables` of a case says which is built: `as_tables`, by
 * the methods of `KTable` (an aggregate or a join is a table already, a map behind a table is `filter` or `mapValues`, with
 * a store); or `as_streams`, by `toStream().toTable()`. All other nodes read a table as the stream of its changes.
 */
@SuppressWarnings({"unchecked", "rawtypes"})
final class Plan {
    /** Gets what a sink gets. */
    interface Capture {
        void record(String sink, Object key, Object value, long timestamp);
    }

    /** What is built for a node. `table`: it has `table`. `windowed`: its keys have windows. */
    private record Node(Object built, boolean table, boolean windowed) {}

    private static final Serde KEYS = Keys.serde();
    private static final Serde VALUES = Json.serde();
    private final StreamsBuilder builder = new StreamsBuilder();
    private final Map<String, Node> nodes = new HashMap<>();
    private final JsonNode file;
    private final Graph graph;
    private final Capture capture;
    private final boolean updates;
    private final boolean asTables;
    /** Named stores so far. */
    private int stores = 0;

    private Plan(JsonNode one, Capture capture) {
        this.file = one.get("topology");
        this.graph = new Graph(file);
        this.capture = capture;
        this.updates = one.path("updates").asBoolean();
        this.asTables = one.path("tables").asText().equals("as_tables");
    }

    /** `one`: a case, see Peer. */
    static Topology build(JsonNode one, Capture capture) {
        Plan plan = new Plan(one, capture);
        plan.file.path("sources").properties().forEach(e -> plan.source(e.getKey(), e.getValue()));
        plan.file.path("operators").properties().forEach(e -> plan.operator(e.getKey(), e.getValue()));
        plan.file.path("sinks").properties().forEach(e -> plan.sink(e.getKey(), plan.stream(e.getValue().get("from").asText())));
        return plan.builder.build();
    }

    static Duration duration(JsonNode text) {
        return text == null ? Duration.ZERO : Duration.ofMillis(Long.parseLong(text.asText().replaceFirst("ms$", "")));
    }

    /** A session takes records until stream time is past end + gap + grace; by default it is gone one tick before. */
    private static Duration retention(JsonNode window) {
        return window.has("session")
            ? duration(window.get("session")).plus(duration(window.get("grace"))).plusMillis(1)
            : Duration.ofDays(1);
    }

    /**
     * A store with a name, since without one Kafka Streams may leave it out and read the store above instead; and without
     * a cache, which sends no tombstone of a row that is not there.
     */
    private Materialized stored(JsonNode table) {
        String name = "rows-" + stores++;
        if (!table.has("versions")) {
            return Materialized.as(name).withKeySerde(KEYS).withValueSerde(VALUES).withCachingDisabled();
        }
        return Materialized.as(Stores.persistentVersionedKeyValueStore(name, duration(table.get("versions"))))
            .withKeySerde(KEYS).withValueSerde(VALUES).withCachingDisabled();
    }

    private void source(String name, JsonNode source) {
        JsonNode kafka = source.get("kafka");
        List<String> topics = new ArrayList<>();
        if (kafka.has("topics")) {
            kafka.get("topics").forEach(topic -> topics.add(topic.asText()));
        } else {
            topics.add(kafka.get("topic").asText());
        }
        Consumed consumed = Consumed.with(KEYS, VALUES);
        if (kafka.has("timestamp")) {
            Expression time = Expression.of(kafka.get("timestamp"));
            consumed = consumed.withTimestampExtractor((record, now) -> {
                // A value without one has no time at all, and is dropped.
                JsonNode found = time.eval(record.key(), record.value());
                return record.value() == null ? record.timestamp() : found == null ? -1 : found.asLong();
            });
        }
        JsonNode table = source.get("table");
        Object built = table == null
            ? builder.stream(topics, consumed)
            : table.path("global").asBoolean()
                ? builder.globalTable(topics.get(0), consumed)
                : builder.table(topics.get(0), consumed, stored(table));
        nodes.put(name, new Node(built, table != null, false));
    }

    private KStream<Object, Object> stream(String name) {
        Object built = nodes.get(name).built();
        return built instanceof KTable table ? table.toStream() : (KStream) built;
    }

    private KTable<Object, Object> rows(String name) {
        return (KTable) nodes.get(name).built();
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
        boolean windowed = nodes.get(first).windowed();
        for (Map.Entry<String, JsonNode> entry : node.properties()) {
            JsonNode config = entry.getValue();
            Object built = switch (entry.getKey()) {
                case "from" -> null;
                case "filter" -> stream(first).filter(Expression.of(config)::test);
                case "map" -> {
                    if (nodes.get(first).table() && isTable(name)) {
                        yield mapped(first, name, config);
                    }
                    Expression map = Expression.of(config);
                    yield stream(first).mapValues((key, value) -> map.eval(key, value));
                }
                case "flat_map" -> {
                    Expression list = Expression.of(config);
                    yield stream(first).flatMapValues((key, value) -> items(list.eval(key, value)));
                }
                case "key_by" -> {
                    Expression by = Expression.of(config);
                    yield together(name, stream(first).selectKey((key, value) -> Keys.like(key, by.text(key, value))));
                }
                case "merge" -> {
                    KStream<Object, Object> all = stream(first);
                    for (String more : from.subList(1, from.size())) {
                        all = all.merge(stream(more));
                    }
                    yield all;
                }
                case "branch" -> {
                    var split = stream(first).split();
                    for (Map.Entry<String, JsonNode> branch : config.properties()) {
                        String output = name + "." + branch.getKey();
                        Expression test = Expression.of(branch.getValue());
                        split = split.branch(
                            test::test,
                            Branched.withConsumer(s -> nodes.put(output, new Node(s, false, windowed))));
                    }
                    split.noDefaultBranch();
                    yield null;
                }
                case "table" -> table(first, config);
                case "aggregate" -> nodes.get(first).table() ? overTable(first, config) : aggregate(first, config);
                case "suppress" -> rows(first).suppress(suppressed(config));
                case "join" -> join(name, nodes.get(first), nodes.get(config.get("with").asText()), config, isTable(name));
                default -> throw new IllegalArgumentException("no such operator here: " + entry.getKey());
            };
            if (built != null) {
                boolean now = entry.getKey().equals("aggregate") ? config.has("window") : windowed;
                nodes.put(name, new Node(built, entry.getKey().equals("table"), now));
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

    /** What `from` sends as a table, see the class. */
    private Object table(String from, JsonNode config) {
        Object built = nodes.get(from).built();
        boolean is = isTable(from) && !config.has("versions") && built instanceof KTable;
        return is ? built : stream(from).toTable(stored(config));
    }

    private boolean isTable(String name) {
        return asTables && graph.isTable(name);
    }

    /**
     * A stream with new keys in a topic of its own, where several nodes need it: otherwise each would get a topic, and they
     * would not see its records in one order.
     */
    private KStream together(String name, KStream<Object, Object> stream) {
        return graph.needingKeys(name) > 1 ? stream.repartition(Repartitioned.with(KEYS, VALUES)) : stream;
    }

    /**
     * `filter` or `mapValues` of a table, by what stands in a `map`. A `filter` sends no tombstone of a row that it has not
     * sent (KTableFilter.process), so it is taken where aggregates alone read it, which do not mind.
     */
    private KTable mapped(String table, String name, JsonNode config) {
        Expression map = Expression.of(config);
        Materialized stored = stored(Json.MAPPER.createObjectNode());
        if (config.asText().startsWith("if . != null && ") && graph.isOnlyAggregated(name)) {
            return rows(table).filter((key, value) -> map.eval(key, value) != null, stored);
        }
        ValueMapperWithKey<Object, Object, Object> to = (key, value) -> map.eval(key, value);
        return rows(table).mapValues(to, stored);
    }

    /** By the plain key, or by an expression. */
    private KTable overTable(String from, JsonNode config) {
        Expression by = config.has("by") ? Expression.of(config.get("by")) : null;
        KeyValueMapper<Object, Object, KeyValue<Object, Object>> group = (key, value) ->
            KeyValue.pair(by == null ? Keys.text(key) : by.text(key, value), value);
        KGroupedTable<Object, Object> grouped = rows(from).groupBy(group, Grouped.with(KEYS, VALUES));
        if (config.has("count")) {
            return grouped.count(Materialized.with(KEYS, Serdes.Long()));
        }
        Materialized values = Materialized.with(KEYS, VALUES);
        if (config.has("reduce")) {
            return grouped.reduce(reducer(config.get("reduce")), reducer(config.get("subtract")), values);
        }
        Functions functions = Functions.of(config);
        return grouped.aggregate((Initializer) functions.init(), (Aggregator) functions.add(), (Aggregator) functions.remove(), values);
    }

    private KTable aggregate(String from, JsonNode config) {
        KStream<Object, Object> in = stream(from);
        KGroupedStream<Object, Object> grouped;
        if (config.has("by")) {
            Expression by = Expression.of(config.get("by"));
            grouped = in.groupBy((key, value) -> by.text(key, value), Grouped.with(KEYS, VALUES));
        } else if (nodes.get(from).windowed()) {
            grouped = in.groupBy((key, value) -> Keys.text(key), Grouped.with(KEYS, VALUES));
        } else {
            grouped = in.groupByKey(Grouped.with(KEYS, VALUES));
        }
        JsonNode window = config.get("window");
        Materialized counts = Materialized.with(KEYS, Serdes.Long());
        Materialized values = Materialized.with(KEYS, VALUES);
        if (window != null) {
            counts = counts.withRetention(retention(window));
            values = values.withRetention(retention(window));
        }
        boolean isFinal = config.path("emit").asText().equals("final") && !updates;
        EmitStrategy emit = isFinal ? EmitStrategy.onWindowClose() : EmitStrategy.onWindowUpdate();
        Reducer reduce = config.has("reduce") ? reducer(config.get("reduce")) : null;
        if (window == null) {
            if (config.has("count")) {
                return grouped.count(counts);
            }
            if (reduce != null) {
                return grouped.reduce(reduce, values);
            }
            Functions functions = Functions.of(config);
            return grouped.aggregate((Initializer) functions.init(), (Aggregator) functions.add(), values);
        }
        Duration grace = duration(window.get("grace"));
        if (window.has("session")) {
            SessionWindowedKStream<Object, Object> sessions = grouped
                .windowedBy(SessionWindows.ofInactivityGapAndGrace(duration(window.get("session")), grace))
                .emitStrategy(emit);
            if (config.has("count")) {
                return sessions.count(counts);
            }
            if (reduce != null) {
                return sessions.reduce(reduce, values);
            }
            Functions functions = Functions.of(config);
            return sessions.aggregate(
                (Initializer) functions.init(), (Aggregator) functions.add(), (Merger) functions.merge(), values);
        }
        TimeWindowedKStream<Object, Object> windows;
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
        return windows.aggregate((Initializer) functions.init(), (Aggregator) functions.add(), values);
    }

    private static Reducer<Object> reducer(JsonNode text) {
        Expression step = Expression.of(text);
        return (acc, value) -> step.eval(new Expression.Scope(null, Json.of(value), Json.of(acc), null));
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

    /** `isTable`: a join of tables that keeps its rows. */
    private Object join(String name, Node leftNode, Node rightNode, JsonNode config, boolean isTable) {
        String type = config.path("type").asText("inner");
        Expression value = config.has("value") ? Expression.of(config.get("value")) : null;
        ValueJoiner<Object, Object, Object> both = (l, r) -> {
            if (value != null) {
                return value.eval(new Expression.Scope(null, null, Json.of(l), Json.of(r)));
            }
            var out = Json.MAPPER.createObjectNode();
            out.set("left", l == null ? NullNode.instance : Json.of(l));
            out.set("right", r == null ? NullNode.instance : Json.of(r));
            return out;
        };
        Duration grace = duration(config.get("grace"));
        Object left = leftNode.built() instanceof KTable t && !leftNode.table() ? t.toStream() : leftNode.built();
        Object right = rightNode.built() instanceof KTable t && !rightNode.table() ? t.toStream() : rightNode.built();
        if (left instanceof KStream stream && right instanceof KStream other) {
            JsonNode within = config.get("within");
            JoinWindows windows = JoinWindows.ofTimeDifferenceAndGrace(Duration.ZERO, grace)
                .before(duration(within.get("before")))
                .after(duration(within.get("after")));
            StreamJoined how = StreamJoined.with(KEYS, VALUES, VALUES);
            return switch (type) {
                case "left" -> stream.leftJoin(other, both, windows, how);
                case "outer" -> stream.outerJoin(other, both, windows, how);
                default -> stream.join(other, both, windows, how);
            };
        }
        boolean isLeft = type.equals("left");
        Expression on = config.has("on") ? Expression.of(config.get("on")) : null;
        if (left instanceof KStream stream && right instanceof GlobalKTable table) {
            KeyValueMapper<Object, Object, Object> key = (k, v) -> on == null ? Keys.text(k) : on.text(k, v);
            return isLeft ? stream.leftJoin(table, key, both) : stream.join(table, key, both);
        }
        if (left instanceof KStream stream) {
            Joined how = Joined.with(KEYS, VALUES, VALUES);
            if (config.has("grace")) {
                how = how.withGracePeriod(grace);
            }
            KTable table = (KTable) right;
            if (leftNode.windowed() && !rightNode.windowed()) {
                return together(name, byPlainKey(stream, table, both, isLeft, how));
            }
            return isLeft ? stream.leftJoin(table, both, how) : stream.join(table, both, how);
        }
        KTable<Object, Object> rows = (KTable) left;
        KTable others = (KTable) right;
        Materialized stored = isTable ? stored(Json.MAPPER.createObjectNode()) : null;
        if (on != null) {
            java.util.function.Function<Object, Object> key = row -> on.text(null, row);
            if (stored == null) {
                return isLeft ? rows.leftJoin(others, key, both) : rows.join(others, key, both);
            }
            return isLeft ? rows.leftJoin(others, key, both, stored) : rows.join(others, key, both, stored);
        }
        if (stored == null) {
            return switch (type) {
                case "left" -> rows.leftJoin(others, both);
                case "outer" -> rows.outerJoin(others, both);
                default -> rows.join(others, both);
            };
        }
        return switch (type) {
            case "left" -> rows.leftJoin(others, both, stored);
            case "outer" -> rows.outerJoin(others, both, stored);
            default -> rows.join(others, both, stored);
        };
    }

    /** Windowed records with the rows of their plain keys: their windows travel in their values meanwhile. */
    private static KStream byPlainKey(KStream<Object, Object> stream, KTable table, ValueJoiner both, boolean isLeft, Joined how) {
        KStream<Object, Object> plain = stream.map((key, value) -> {
            Windowed<?> windowed = (Windowed<?>) key;
            if (value == null) {
                return KeyValue.pair(Keys.text(key), null);
            }
            ObjectNode carried = Json.MAPPER.createObjectNode();
            carried.set("value", Json.of(value));
            carried.put("start", windowed.window().start()).put("end", windowed.window().end());
            carried.put("session", windowed.window() instanceof SessionWindow);
            return KeyValue.pair(Keys.text(key), carried);
        });
        ValueJoiner<Object, Object, Object> inside = (l, r) -> {
            ObjectNode carried = ((ObjectNode) l).deepCopy();
            Object value = both.apply(Json.nothing(carried.get("value")), r);
            carried.set("value", (JsonNode) value);
            return carried;
        };
        KStream<Object, Object> joined = isLeft ? plain.leftJoin(table, inside, how) : plain.join(table, inside, how);
        return joined.map((key, value) -> {
            JsonNode carried = (JsonNode) value;
            Object windowed = Keys.windowed(
                (String) key, carried.get("start").asLong(), carried.get("end").asLong(), carried.get("session").asBoolean());
            return KeyValue.pair(windowed, Json.nothing(carried.get("value")));
        });
    }

    private void sink(String name, KStream<Object, Object> from) {
        from.process(() -> new Processor<Object, Object, Void, Void>() {
            @Override
            public void process(Record<Object, Object> record) {
                capture.record(name, record.key(), Json.of(record.value()), record.timestamp());
            }
        });
    }
}
