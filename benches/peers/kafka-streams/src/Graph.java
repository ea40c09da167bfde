import com.fasterxml.jackson.databind.JsonNode;
import java.util.Map;
import java.util.stream.Stream;

/** Who reads whom in a file of slackwater, and what Plan has to know of that. */
record Graph(JsonNode file) {
    /** Is a node without `table` one in Kafka Streams, because a node with `table` reads it? */
    boolean isTable(String name) {
        return (!operator(name).has("suppress") || !asksForOldRows())
            && operators().anyMatch(o ->
                o.has("table") && !o.get("table").has("versions") && o.get("from").asText().equals(name));
    }

    /**
     * Kafka Streams' `suppress` names as the old row the one before the last update, also where that was never sent
     * (InMemoryTimeOrderedKeyValueChangeBuffer.evictWhile), so that an aggregate takes out what it never took in.
     */
    private boolean asksForOldRows() {
        return operators().anyMatch(o ->
            o.has("join") && o.get("join").has("on") || o.has("aggregate") && hasTable(o.get("from").asText()));
    }

    /** Do tables alone read it, and aggregates alone those? */
    boolean isOnlyAggregated(String name) {
        return readers(name)
            .allMatch(e -> e.getValue().has("table") && readers(e.getKey()).allMatch(r -> r.getValue().has("aggregate")));
    }

    /** How many nodes below need its records by key, through nodes that do not. */
    long needingKeys(String name) {
        return readers(name).mapToLong(e -> {
            JsonNode node = e.getValue();
            boolean needs = node.has("aggregate") || node.has("table") || node.has("join");
            // Twice, if it stands on both sides.
            boolean both = needs && node.path("join").path("with").asText().equals(node.path("from").asText());
            return both ? 2 : needs ? 1 : needingKeys(e.getKey());
        }).sum();
    }

    private Stream<Map.Entry<String, JsonNode>> readers(String name) {
        return Stream.of("operators", "sinks")
            .flatMap(section -> file.get(section).properties().stream())
            .filter(e -> e.getValue().get("from").asText().equals(name)
                || e.getValue().path("join").path("with").asText().equals(name));
    }

    private boolean hasTable(String name) {
        return file.get("sources").path(name).has("table") || operator(name).has("table");
    }

    private JsonNode operator(String name) {
        return file.get("operators").path(name);
    }

    private Stream<JsonNode> operators() {
        return file.get("operators").properties().stream().map(Map.Entry::getValue);
    }
}
