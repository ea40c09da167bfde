import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.BooleanNode;
import com.fasterxml.jackson.databind.node.LongNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.TextNode;
import java.util.Map;

/** The expressions that the differential test writes into its files: a closed list, each with its counterpart in Java. */
interface Expression {
    /** What an expression may read: `key`, the value as `.`, and two more by name (`acc`; or `left` and `right`). */
    record Scope(String key, JsonNode value, JsonNode a, JsonNode b) {
        JsonNode field(String name) {
            return value == null ? null : Json.nothing(value.get(name));
        }

        long number(String name) {
            return field(name).asLong();
        }
    }

    JsonNode eval(Scope scope);

    default JsonNode eval(String key, JsonNode value) {
        return eval(new Scope(key, value, null, null));
    }

    default boolean test(String key, JsonNode value) {
        JsonNode result = eval(key, value);
        return result != null && result.asBoolean();
    }

    /** A text as a key. */
    default String text(String key, JsonNode value) {
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
        Map.entry(".v == 3", s -> BooleanNode.valueOf(s.field("v") != null && s.number("v") == 3)),
        Map.entry("(int(.v) ?? 0) > 4", s -> BooleanNode.valueOf(s.field("v") != null && s.number("v") > 4)),
        Map.entry("if .v == 2 { null } else { . }", s -> s.field("v") != null && s.number("v") == 2 ? null : s.value()),
        Map.entry("{ \"v\": .v, \"was\": key }", s -> {
            ObjectNode out = Json.MAPPER.createObjectNode();
            out.set("v", s.field("v"));
            out.put("was", s.key());
            return out;
        }),
        Map.entry("int!(acc) + int!(.v)", s -> LongNode.valueOf(s.a().asLong() + s.number("v"))),
        Map.entry("int!(acc) * 3 + int!(.v)", s -> LongNode.valueOf(s.a().asLong() * 3 + s.number("v"))),
        Map.entry("if .v == 1 { null } else { int!(acc) * 2 + int!(.v) }",
            s -> s.number("v") == 1 ? null : LongNode.valueOf(s.a().asLong() * 2 + s.number("v"))),
        Map.entry("int!(left) * 5 + int!(right)", s -> LongNode.valueOf(s.a().asLong() * 5 + s.b().asLong())),
        Map.entry("{ \"v\": int!(acc.v) * 2 + int!(.v), \"id\": .id }", s -> {
            ObjectNode out = Json.MAPPER.createObjectNode();
            out.put("v", s.a().get("v").asLong() * 2 + s.number("v"));
            out.set("id", s.field("id"));
            return out;
        }));

    static Expression of(JsonNode text) {
        Expression found = ALL.get(text.asText());
        if (found == null) {
            throw new IllegalArgumentException("no such expression here: " + text);
        }
        return found;
    }
}
