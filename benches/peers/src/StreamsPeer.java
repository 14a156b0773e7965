import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashSet;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/**
 * The job in Kafka Streams' Processor API: raw calls, re-keyed by account through a topic, then folded into stores of small
 * values. Two sub-topologies, exactly-once v2.
 */
public final class StreamsPeer {
    private StreamsPeer() {}

    public static void main(String[] args) {
        String name = Job.argument(args, "name", null);
        boolean isRocks = Job.argument(args, "state", "heap").equals("rocksdb");
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, name);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, Job.argument(args, "broker", null));
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Job.argument(args, "commit-ms", null));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, Job.argument(args, "threads", "2"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, Job.argument(args, "dir", null));
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        // The tuning guide: a larger cache in front of the stores, larger polls, larger batches.
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 256L << 20);
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        settings.put(StreamsConfig.consumerPrefix("max.poll.records"), 10_000);
        settings.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        settings.put(StreamsConfig.producerPrefix("linger.ms"), 20);
        settings.put(StreamsConfig.producerPrefix("batch.size"), 1 << 18);
        Topology topology = new Topology();
        var text = Serdes.String();
        var bytes = Serdes.ByteArray();
        topology.addSource("raw", bytes.deserializer(), bytes.deserializer(), Job.argument(args, "input", null));
        topology.addProcessor("decode", Decode::new, "raw");
        topology.addSink("rekey", name + "-events", text.serializer(), bytes.serializer(), "decode");
        topology.addSource("events", text.deserializer(), bytes.deserializer(), name + "-events");
        int first = Integer.parseInt(Job.argument(args, "first-day", null));
        long graceMs = Long.parseLong(Job.argument(args, "grace-ms", null));
        long liveMs = Long.parseLong(Job.argument(args, "live-ms", null));
        topology.addProcessor("fold", () -> new Fold(first, graceMs, liveMs), "events");
        for (String store : new String[] {"users", "features", "accounts"}) {
            var supplier = isRocks ? Stores.persistentKeyValueStore(store) : Stores.inMemoryKeyValueStore(store);
            topology.addStateStore(Stores.keyValueStoreBuilder(supplier, text, Serdes.Long()).withCachingEnabled(), "fold");
        }
        var cells = isRocks ? Stores.persistentKeyValueStore("cells") : Stores.inMemoryKeyValueStore("cells");
        topology.addStateStore(Stores.keyValueStoreBuilder(cells, text, bytes).withCachingEnabled(), "fold");
        Duration kept = Duration.ofDays(Job.ID_DAYS + 1);
        Duration day = Duration.ofDays(1);
        var ids = isRocks
            ? Stores.persistentWindowStore("ids", kept, day, false)
            : Stores.inMemoryWindowStore("ids", kept, day, false);
        topology.addStateStore(Stores.windowStoreBuilder(ids, text, bytes).withCachingEnabled(), "fold");
        topology.addSink("rows", Job.argument(args, "output", null), text.serializer(), bytes.serializer(), "fold");
        KafkaStreams streams = new KafkaStreams(topology, settings);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
    }

    /** Raw calls to compact events with the account as key. */
    static final class Decode implements Processor<byte[], byte[], String, byte[]> {
        private ProcessorContext<String, byte[]> context;

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            Job.Event event = Job.decode(record.value());
            byte[] id = event.id.getBytes(StandardCharsets.UTF_8);
            byte[] user = event.user.getBytes(StandardCharsets.UTF_8);
            byte[] feature = event.feature.getBytes(StandardCharsets.UTF_8);
            ByteBuffer value = ByteBuffer.allocate(16 + 6 + id.length + user.length + feature.length);
            value.putLong(event.atMs).putLong(event.durationMs);
            for (byte[] part : new byte[][] {id, user, feature}) {
                value.putShort((short) part.length).put(part);
            }
            context.forward(new Record<>(event.account, value.array(), event.atMs));
        }
    }

    /** Events to rows. */
    static final class Fold implements Processor<String, byte[], String, byte[]> {
        private final int first;
        private final long graceMs;
        private final long liveMs;
        private ProcessorContext<String, byte[]> context;
        private WindowStore<String, byte[]> ids;
        private KeyValueStore<String, byte[]> cells;
        private KeyValueStore<String, Long> users;
        private KeyValueStore<String, Long> features;
        private KeyValueStore<String, Long> accounts;
        private final Set<String> touched = new HashSet<>();
        private int open;
        private int newest;

        Fold(int first, long graceMs, long liveMs) {
            this.first = first;
            this.graceMs = graceMs;
            this.liveMs = liveMs;
            open = first;
            newest = first;
        }

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            ids = context.getStateStore("ids");
            cells = context.getStateStore("cells");
            users = context.getStateStore("users");
            features = context.getStateStore("features");
            accounts = context.getStateStore("accounts");
            context.schedule(Duration.ofMinutes(10), PunctuationType.STREAM_TIME, this::close);
            context.schedule(Duration.ofMillis(liveMs), PunctuationType.WALL_CLOCK_TIME, now -> live());
        }

        private static String text(ByteBuffer value) {
            byte[] bytes = new byte[value.getShort()];
            value.get(bytes);
            return new String(bytes, StandardCharsets.UTF_8);
        }

        @Override
        public void process(Record<String, byte[]> record) {
            String account = record.key();
            ByteBuffer value = ByteBuffer.wrap(record.value());
            long atMs = value.getLong();
            long durationMs = value.getLong();
            int day = (int) (atMs / Job.DAY_MS);
            if (day < open) {
                throw new IllegalStateException("late: the grace is too short for this load");
            }
            String id = account + '\0' + text(value);
            if (ids.fetch(id, day * Job.DAY_MS) != null) {
                return;
            }
            ids.put(id, new byte[0], day * Job.DAY_MS);
            newest = Math.max(newest, day);
            long bit = 1L << (day - first);
            for (KeyValueStore<String, Long> store : java.util.List.of(users, features)) {
                String key = account + '\0' + text(value);
                Long bits = store.get(key);
                if (bits == null || (bits & bit) == 0) {
                    store.put(key, (bits == null ? 0 : bits) | bit);
                }
            }
            String cell = cellKey(account, day);
            byte[] before = cells.get(cell);
            ByteBuffer sums = ByteBuffer.wrap(before == null ? new byte[16] : before.clone());
            sums.putLong(0, sums.getLong(0) + 1).putLong(8, sums.getLong(8) + durationMs);
            cells.put(cell, sums.array());
            Long since = accounts.get(account);
            if (since == null || day < since) {
                accounts.put(account, (long) day);
            }
            touched.add(account);
        }

        private static String cellKey(String account, int day) {
            return account + '\0' + day;
        }

        private long count(KeyValueStore<String, Long> store, String account, long mask) {
            long count = 0;
            try (KeyValueIterator<String, Long> all = store.range(account + '\0', account + '\1')) {
                while (all.hasNext()) {
                    count += (all.next().value & mask) != 0 ? 1 : 0;
                }
            }
            return count;
        }

        private void rows(String account, int day, boolean isFinal) {
            for (int window : Job.WINDOWS) {
                long mask = Job.bits(window, day, first);
                long[] measures = new long[4];
                for (int of = Math.max(first, day - window + 1); of <= day; of++) {
                    byte[] cell = cells.get(cellKey(account, of));
                    if (cell != null) {
                        ByteBuffer sums = ByteBuffer.wrap(cell);
                        measures[0] += sums.getLong(0);
                        measures[3] += sums.getLong(8);
                    }
                }
                measures[1] = count(users, account, mask);
                measures[2] = count(features, account, mask);
                context.forward(new Record<>(account, Job.row(account, day, window, measures, isFinal), 0));
            }
        }

        private void close(long timeMs) {
            for (; (open + 1) * Job.DAY_MS + graceMs <= timeMs; open++) {
                try (KeyValueIterator<String, Long> all = accounts.all()) {
                    while (all.hasNext()) {
                        KeyValue<String, Long> account = all.next();
                        if (account.value <= open) {
                            rows(account.key, open, true);
                        }
                    }
                }
            }
        }

        private void live() {
            touched.forEach(account -> rows(account, newest, false));
            touched.clear();
        }
    }
}
