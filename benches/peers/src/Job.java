import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.charset.StandardCharsets;

/** The job that every peer does: what it reads, what it counts and what it writes. */
public final class Job {
    static final long DAY_MS = 86_400_000L;
    /** Trailing windows, in days. */
    static final int[] WINDOWS = {1, 7, 28};
    /** Days for which the id of an event is kept after its day. */
    static final int ID_DAYS = 2;
    private static final JsonFactory JSON = new JsonFactory();

    private Job() {}

    /** One use of a feature. */
    public static final class Event {
        public String id;
        public String account;
        public String user;
        public String feature;
        public long atMs;
        public long durationMs;

        public Event() {}
    }

    /** Decodes a `track` call with a streaming parser: nothing but the fields that are needed becomes an object. */
    static Event decode(byte[] bytes) {
        try (JsonParser in = JSON.createParser(bytes)) {
            Event event = new Event();
            object(in, event, "");
            return event;
        } catch (IOException error) {
            throw new IllegalArgumentException("not a track call", error);
        }
    }

    private static void object(JsonParser in, Event event, String within) throws IOException {
        if (within.isEmpty()) {
            in.nextToken();
        }
        String name;
        while ((name = in.nextFieldName()) != null) {
            JsonToken value = in.nextToken();
            switch (name) {
                case "messageId" -> event.id = in.getText();
                case "event" -> event.feature = in.getText();
                case "userId" -> event.user = in.getText();
                case "groupId" -> event.account = in.getText();
                case "timestamp" -> event.atMs = timeMs(in.getText());
                case "duration_ms" -> event.durationMs = in.getLongValue();
                case "context", "properties" -> object(in, event, name);
                default -> {
                    if (value.isStructStart()) {
                        in.skipChildren();
                    }
                }
            }
        }
    }

    /** Milliseconds of a time such as 2024-01-01T00:00:00.123Z, without the detour over java.time. */
    static long timeMs(String text) {
        long days = java.time.LocalDate.of(number(text, 0, 4), number(text, 5, 7), number(text, 8, 10)).toEpochDay();
        long seconds = number(text, 11, 13) * 3600L + number(text, 14, 16) * 60L + number(text, 17, 19);
        long ms = 0;
        for (int at = 20, unit = 100; at < text.length() && unit > 0 && Character.isDigit(text.charAt(at)); at++, unit /= 10) {
            ms += (long) unit * (text.charAt(at) - '0');
        }
        return days * DAY_MS + seconds * 1000 + ms;
    }

    private static int number(String text, int from, int to) {
        int number = 0;
        for (int at = from; at < to; at++) {
            number = number * 10 + text.charAt(at) - '0';
        }
        return number;
    }

    /** The days of a window that ends with `day`, as bits: bit 0 is day `first`. */
    static long bits(int window, int day, int first) {
        int to = day - first + 1;
        int from = Math.max(0, to - window);
        return (to >= 64 ? -1L : (1L << to) - 1) & ~((1L << from) - 1);
    }

    /** A row as text: account, end of the window, its days, events, users, features, duration, and whether it is final. */
    static byte[] row(String account, int day, int window, long[] measures, boolean isFinal) {
        StringBuilder row = new StringBuilder(80).append(account).append(',').append((day + 1) * DAY_MS).append(',').append(window);
        for (long measure : measures) {
            row.append(',').append(measure);
        }
        return row.append(isFinal ? ",final" : ",live").toString().getBytes(StandardCharsets.US_ASCII);
    }

    static String argument(String[] args, String name, String otherwise) {
        for (int at = 0; at + 1 < args.length; at++) {
            if (args[at].equals("--" + name)) {
                return args[at + 1];
            }
        }
        if (otherwise == null) {
            throw new IllegalArgumentException("--" + name + " is missing");
        }
        return otherwise;
    }
}
