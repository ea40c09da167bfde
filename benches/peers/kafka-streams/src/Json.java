import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.LongNode;
import java.io.IOException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;

/** Values as JSON; JSON's null is Java's, a tombstone. Kafka Streams' counts are numbers of Java's. */
@SuppressWarnings({"unchecked", "rawtypes"})
final class Json {
    static final ObjectMapper MAPPER = new ObjectMapper();

    private Json() {}

    static Serde<JsonNode> serde() {
        Serializer to = (topic, value) -> value == null ? null : bytes(value);
        Deserializer<JsonNode> from = (topic, bytes) -> bytes == null ? null : read(bytes);
        return Serdes.serdeFrom(to, from);
    }

    /** A value as JSON, also a count. */
    static JsonNode of(Object value) {
        return value instanceof Long n ? LongNode.valueOf(n) : nothing((JsonNode) value);
    }

    /** For `default.value.serde`, which wants a class. */
    public static final class JsonSerde implements Serde<JsonNode> {
        @Override
        public Serializer<JsonNode> serializer() {
            return serde().serializer();
        }

        @Override
        public Deserializer<JsonNode> deserializer() {
            return serde().deserializer();
        }
    }

    static byte[] bytes(Object value) {
        try {
            return MAPPER.writeValueAsBytes(value);
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }

    static JsonNode read(byte[] bytes) {
        try {
            return nothing(MAPPER.readTree(bytes));
        } catch (IOException e) {
            throw new IllegalStateException(e);
        }
    }

    /** A missing field and JSON's null are nothing. */
    static JsonNode nothing(JsonNode node) {
        return node == null || node.isNull() || node.isMissingNode() ? null : node;
    }
}
