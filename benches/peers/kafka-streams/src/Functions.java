import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.LongNode;
import org.apache.kafka.streams.kstream.Aggregator;
import org.apache.kafka.streams.kstream.Initializer;
import org.apache.kafka.streams.kstream.Merger;
import org.apache.kafka.streams.kstream.Reducer;

/** What an aggregate computes, for Kafka Streams' `aggregate`; `count` and `reduce` are its own. `remove`: over a table. */
record Functions(
    Initializer<JsonNode> init, Aggregator<Object, Object, JsonNode> add, Merger<Object, JsonNode> merge,
    Aggregator<Object, Object, JsonNode> remove) {

    static Functions of(JsonNode config) {
        if (config.has("fold")) {
            JsonNode fold = config.get("fold");
            Expression step = Expression.of(fold.get("step"));
            Expression merge = fold.has("merge") ? Expression.of(fold.get("merge")) : null;
            Expression subtract = fold.has("subtract") ? Expression.of(fold.get("subtract")) : null;
            JsonNode init = Json.nothing(fold.get("init"));
            return new Functions(
                () -> init,
                (key, value, acc) -> step.eval(new Expression.Scope(key, Json.of(value), acc == null ? init : acc, null)),
                (key, a, b) -> merge.eval(new Expression.Scope(key, null, a == null ? init : a, b)),
                (key, value, acc) -> subtract.eval(new Expression.Scope(key, Json.of(value), acc, null)));
        }
        if (config.has("sum")) {
            Functions sum = simple(
                config.get("sum"), LongNode.valueOf(0), (a, b) -> LongNode.valueOf(a.asLong() + b.asLong()));
            Expression of = Expression.of(config.get("sum"));
            return new Functions(sum.init(), sum.add(), sum.merge(), (key, value, acc) -> {
                JsonNode gone = of.eval(key, value);
                return gone == null ? acc : LongNode.valueOf(acc.asLong() - gone.asLong());
            });
        }
        if (config.has("min")) {
            return simple(config.get("min"), null, (a, b) -> b.asLong() < a.asLong() ? b : a);
        }
        if (config.has("max")) {
            return simple(config.get("max"), null, (a, b) -> b.asLong() > a.asLong() ? b : a);
        }
        if (config.has("first")) {
            return simple(config.get("first"), null, (a, b) -> a);
        }
        if (config.has("last")) {
            return simple(config.get("last"), null, (a, b) -> b);
        }
        if (config.has("collect")) {
            int max = config.get("collect").get("max").asInt();
            Expression of = Expression.of(config.get("collect").get("of"));
            return new Functions(
                Json.MAPPER::createArrayNode,
                (key, value, acc) -> append(acc, of.eval(key, value), max),
                (key, a, b) -> {
                    JsonNode out = a;
                    for (JsonNode item : b) {
                        out = append(out, item, max);
                    }
                    return out;
                },
                null);
        }
        throw new IllegalArgumentException("no such aggregation here: " + config);
    }

    /** The result is one of the values, or made of two; nothing adds nothing. */
    private static Functions simple(JsonNode text, JsonNode init, Reducer<JsonNode> both) {
        Expression of = Expression.of(text);
        Reducer<JsonNode> join = (a, b) -> b == null ? a : a == null ? b : both.apply(a, b);
        return new Functions(
            () -> init, (key, value, acc) -> join.apply(acc, of.eval(key, value)), (key, a, b) -> join.apply(a, b), null);
    }

    private static JsonNode append(JsonNode list, JsonNode item, int max) {
        if (item == null || list.size() >= max) {
            return list;
        }
        ArrayNode out = ((ArrayNode) list).deepCopy();
        return out.add(item);
    }
}
