import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.kstream.Window;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.kstream.internals.SessionWindow;
import org.apache.kafka.streams.kstream.internals.TimeWindow;

/** Keys: a string, or one with a window, which Kafka Streams' own serdes could not tell apart. */
final class Keys {
    private static final int BOUNDS = 18;

    private Keys() {}

    /** The key without its window. */
    static String text(Object key) {
        return (String) (key instanceof Windowed<?> windowed ? windowed.key() : key);
    }

    /** Another key in the same window, if there is one. */
    static Object like(Object key, String text) {
        return text != null && key instanceof Windowed<?> windowed ? new Windowed<>(text, windowed.window()) : text;
    }

    static Windowed<String> windowed(String key, long start, long end, boolean session) {
        Window window = session ? new SessionWindow(start, end) : new TimeWindow(start, end);
        return new Windowed<>(key, window);
    }

    static Serde<Object> serde() {
        Serializer<Object> to = (topic, key) -> bytes(key);
        Deserializer<Object> from = (topic, bytes) -> read(bytes);
        return Serdes.serdeFrom(to, from);
    }

    /** For `default.key.serde`, which wants a class. */
    public static final class KeySerde implements Serde<Object> {
        @Override
        public Serializer<Object> serializer() {
            return serde().serializer();
        }

        @Override
        public Deserializer<Object> deserializer() {
            return serde().deserializer();
        }
    }

    /** Text; or text, a zero byte, start, end, and 1 for a session. Text has no zero byte. */
    private static byte[] bytes(Object key) {
        if (key == null) {
            return null;
        }
        byte[] text = text(key).getBytes(StandardCharsets.UTF_8);
        if (!(key instanceof Windowed<?> windowed)) {
            return text;
        }
        Window window = windowed.window();
        return ByteBuffer.allocate(text.length + BOUNDS).put(text).put((byte) 0).putLong(window.start())
            .putLong(window.end()).put((byte) (window instanceof SessionWindow ? 1 : 0)).array();
    }

    private static Object read(byte[] bytes) {
        if (bytes == null) {
            return null;
        }
        int end = 0;
        while (end < bytes.length && bytes[end] != 0) {
            end++;
        }
        String text = new String(bytes, 0, end, StandardCharsets.UTF_8);
        if (end == bytes.length) {
            return text;
        }
        ByteBuffer bounds = ByteBuffer.wrap(bytes, end + 1, BOUNDS - 1);
        return windowed(text, bounds.getLong(), bounds.getLong(), bounds.get() == 1);
    }
}
