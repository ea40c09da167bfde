import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.BooleanNode;
import com.fasterxml.jackson.databind.node.LongNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.TextNode;
import java.util.Map;
import org.apache.kafka.streams.kstream.Windowed;

/** The expressions that the differential test writes into its files: a closed list, each with its counterpart in Java. */
interface Expression {
    /** What an expression may read: `key`, `window`, the value as `.`, and two more by name (`acc`; or `left` and `right`). */
    record Scope(Object of, JsonNode value, JsonNode a, JsonNode b) {
        String key() {
            return Keys.text(of);
        }

        /** Of the window, or null. */
        JsonNode start() {
            return of instanceof Windowed<?> windowed ? LongNode.valueOf(windowed.window().start()) : null;
        }

        JsonNode field(String name) {
            return field(value, name);
        }

        static JsonNode field(JsonNode of, String name) {
            return of == null ? null : Json.nothing(of.get(name));
        }

        /** Of either side, the left one first. */
        JsonNode either(String name) {
            JsonNode left = field(a, name);
            return left == null ? field(b, name) : left;
        }

        static long numberOr0(JsonNode of, String name) {
            JsonNode found = field(of, name);
            return found != null && found.isIntegralNumber() ? found.asLong() : 0;
        }

        long number(String name) {
            return field(name).asLong();
        }
    }

    JsonNode eval(Scope scope);

    default JsonNode eval(Object key, Object value) {
        return Json.nothing(eval(new Scope(key, Json.of(value), null, null)));
    }

    default boolean test(Object key, Object value) {
        JsonNode result = eval(key, value);
        return result != null && result.asBoolean();
    }

    /** A text as a key. */
    default String text(Object key, Object value) {
        JsonNode result = eval(key, value);
        return result == null ? null : result.asText();
    }

    Map<String, Expression> ALL = Map.ofEntries(
        Map.entry("true", s -> BooleanNode.TRUE),
        Map.entry("key", s -> s.key() == null ? null : TextNode.valueOf(s.key())),
        Map.entry(".", s -> s.value()),
        Map.entry(".v", s -> s.field("v")),
        Map.entry(".g", s -> s.field("g")),
        Map.entry(".id", s -> s.field("id")),
        Map.entry(".list", s -> s.field("list")),
        Map.entry("string(.g) ?? \"none\"", s -> s.field("g") == null ? TextNode.valueOf("none") : s.field("g")),
        Map.entry("string(key) ?? \"none\"", s -> TextNode.valueOf(s.key() == null ? "none" : s.key())),
        Map.entry(". != null", s -> BooleanNode.valueOf(s.value() != null)),
        Map.entry(".v == 3", s -> BooleanNode.valueOf(s.field("v") != null && s.number("v") == 3)),
        Map.entry("(int(.v) ?? 0) > 4", s -> BooleanNode.valueOf(s.field("v") != null && s.number("v") > 4)),
        Map.entry("if .v == 2 { null } else { . }", s -> s.field("v") != null && s.number("v") == 2 ? null : s.value()),
        Map.entry("{ \"v\": .v, \"was\": key }", s -> {
            ObjectNode out = Json.MAPPER.createObjectNode();
            out.set("v", s.field("v"));
            out.put("was", s.key());
            return out;
        }),
        Map.entry(".t", s -> s.field("t")),
        Map.entry("if . == null { null } else { { \"v\": ., \"g\": key, \"id\": window.start } }",
            s -> s.value() == null ? null : row(s.value(), TextNode.valueOf(s.key()), s.start())),
        Map.entry("if . == null { null } else { { \"v\": .v, \"g\": .g, \"id\": .id } }",
            s -> s.value() == null ? null : row(s.field("v"), s.field("g"), s.field("id"))),
        Map.entry("if . != null && .v != 3 { . } else { null }",
            s -> s.value() == null || s.field("v") != null && s.number("v") == 3 ? null : s.value()),
        Map.entry("{ \"v\": (int(left.v) ?? 0) * 2 - (int(right.v) ?? 0), \"g\": left.g || right.g, \"id\": left.id || right.id }",
            s -> row(
                LongNode.valueOf(Scope.numberOr0(s.a(), "v") * 2 - Scope.numberOr0(s.b(), "v")), s.either("g"), s.either("id"))),
        Map.entry("{ \"v\": int!(.v) - int!(acc.v), \"g\": .g, \"id\": .id }",
            s -> row(LongNode.valueOf(s.number("v") - s.a().get("v").asLong()), s.field("g"), s.field("id"))),
        Map.entry("{ \"v\": int!(acc.v) + int!(.v), \"g\": .g, \"id\": .id }",
            s -> row(LongNode.valueOf(s.a().get("v").asLong() + s.number("v")), s.field("g"), s.field("id"))),
        Map.entry("if acc.v == .v { null } else { { \"v\": int!(acc.v) - int!(.v), \"g\": acc.g, \"id\": .id } }",
            s -> s.a().get("v").asLong() == s.number("v") ? null
                : row(LongNode.valueOf(s.a().get("v").asLong() - s.number("v")), Scope.field(s.a(), "g"), s.field("id"))),
        Map.entry("int!(acc) - int!(.v)", s -> LongNode.valueOf(s.a().asLong() - s.number("v"))),
        Map.entry("if int!(acc) == int!(.v) { null } else { int!(acc) - int!(.v) }",
            s -> s.a().asLong() == s.number("v") ? null : LongNode.valueOf(s.a().asLong() - s.number("v"))),
        Map.entry("int!(.v) - int!(acc)", s -> LongNode.valueOf(s.number("v") - s.a().asLong())),
        Map.entry("int!(acc) + int!(.v)", s -> LongNode.valueOf(s.a().asLong() + s.number("v"))),
        Map.entry("mod(int!(acc) * 3 + int!(.v), 1000003)", s -> LongNode.valueOf((s.a().asLong() * 3 + s.number("v")) % 1000003)),
        Map.entry("if .v == 1 { null } else { mod(int!(acc) * 2 + int!(.v), 1000003) }",
            s -> s.number("v") == 1 ? null : LongNode.valueOf((s.a().asLong() * 2 + s.number("v")) % 1000003)),
        Map.entry("mod(int!(left) * 5 + int!(right), 1000003)", s -> LongNode.valueOf((s.a().asLong() * 5 + s.b().asLong()) % 1000003)),
        Map.entry("{ \"v\": mod(int!(acc.v) * 2 + int!(.v), 1000003), \"id\": .id }", s -> {
            ObjectNode out = Json.MAPPER.createObjectNode();
            out.put("v", (s.a().get("v").asLong() * 2 + s.number("v")) % 1000003);
            out.set("id", s.field("id"));
            return out;
        }));

    private static JsonNode row(JsonNode v, JsonNode g, JsonNode id) {
        ObjectNode out = Json.MAPPER.createObjectNode();
        out.set("v", v);
        out.set("g", g);
        out.set("id", id);
        return out;
    }

    static Expression of(JsonNode text) {
        Expression found = ALL.get(text.asText());
        if (found == null) {
            throw new IllegalArgumentException("no such expression here: " + text);
        }
        return found;
    }
}
