import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;

/** The job in Flink's DataStream API, all of it in one JVM: source, keyed fold with timers, transactional sink. */
public final class FlinkPeer {
    private FlinkPeer() {}

    public static void main(String[] args) throws Exception {
        String name = Job.argument(args, "name", null);
        String dir = Job.argument(args, "dir", null);
        Configuration settings = new Configuration();
        settings.setString("state.backend.type", Job.argument(args, "state", "heap").equals("rocksdb") ? "rocksdb" : "hashmap");
        // The tuning guide: incremental checkpoints, timers on the heap, predefined options, enough managed memory; objects reused.
        settings.setString("execution.checkpointing.incremental", "true");
        settings.setString("state.backend.rocksdb.timer-service.factory", "HEAP");
        settings.setString("state.backend.rocksdb.predefined-options", "SPINNING_DISK_OPTIMIZED_HIGH_MEM");
        settings.setString("taskmanager.memory.managed.size", Job.argument(args, "managed", "64m"));
        settings.setString("taskmanager.memory.network.min", "128m");
        settings.setString("taskmanager.memory.network.max", "128m");
        settings.setString("pipeline.object-reuse", "true");
        settings.setString("pipeline.generic-types", "false");
        settings.setString("execution.checkpointing.dir", "file://" + dir + "/checkpoints");
        settings.setString("execution.checkpointing.interval", Job.argument(args, "commit-ms", null) + " ms");
        settings.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
        settings.setString("io.tmp.dirs", dir);
        settings.setString("rest.port", "0");
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(Integer.parseInt(Job.argument(args, "threads", "2")), settings);
        String broker = Job.argument(args, "broker", null);
        KafkaSource<Job.Event> source = KafkaSource.<Job.Event>builder()
            .setBootstrapServers(broker)
            .setTopics(Job.argument(args, "input", null))
            .setGroupId(name)
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setDeserializer(new Decode())
            .setProperty("max.poll.records", "10000")
            .build();
        Duration bound = Duration.ofMillis(Long.parseLong(Job.argument(args, "grace-ms", null)));
        Properties producer = new Properties();
        producer.put("transaction.timeout.ms", "600000");
        producer.put("linger.ms", "20");
        producer.put("batch.size", String.valueOf(1 << 18));
        KafkaSink<Row> sink = KafkaSink.<Row>builder()
            .setBootstrapServers(broker)
            .setRecordSerializer(new Encode(Job.argument(args, "output", null)))
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
            .setTransactionalIdPrefix(name)
            .setKafkaProducerConfig(producer)
            .build();
        int first = Integer.parseInt(Job.argument(args, "first-day", null));
        long liveMs = Long.parseLong(Job.argument(args, "live-ms", null));
        // The time of a record is that of its event.
        env.fromSource(source, WatermarkStrategy.forBoundedOutOfOrderness(bound), "calls")
            .keyBy(event -> event.account, Types.STRING)
            .process(new Fold(first, liveMs), TypeInformation.of(Row.class))
            .sinkTo(sink);
        env.execute(name);
    }

    /** A row on its way to Kafka. */
    public static final class Row {
        public String account;
        public byte[] text;

        public Row() {}

        Row(String account, byte[] text) {
            this.account = account;
            this.text = text;
        }
    }

    /** Sums of an account and day. */
    public static final class Cell {
        public long events;
        public long durationMs;

        public Cell() {}
    }

    static final class Decode implements KafkaRecordDeserializationSchema<Job.Event> {
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Job.Event> out) {
            out.collect(Job.decode(record.value()));
        }

        @Override
        public TypeInformation<Job.Event> getProducedType() {
            return Types.POJO(Job.Event.class);
        }
    }

    static final class Encode implements KafkaRecordSerializationSchema<Row> {
        private final String topic;

        Encode(String topic) {
            this.topic = topic;
        }

        @Override
        public ProducerRecord<byte[], byte[]> serialize(Row row, KafkaSinkContext context, Long timestamp) {
            return new ProducerRecord<>(topic, row.account.getBytes(java.nio.charset.StandardCharsets.US_ASCII), row.text);
        }
    }

    /** Events of an account to its rows. */
    static final class Fold extends KeyedProcessFunction<String, Job.Event, Row> {
        private final int first;
        private final long liveMs;
        private transient MapState<String, Integer> ids;
        private transient MapState<Integer, Cell> cells;
        private transient MapState<String, Long> users;
        private transient MapState<String, Long> features;
        private transient ValueState<Integer> newest;
        private transient ValueState<Long> liveAt;

        Fold(int first, long liveMs) {
            this.first = first;
            this.liveMs = liveMs;
        }

        @Override
        public void open(OpenContext context) {
            var runtime = getRuntimeContext();
            ids = runtime.getMapState(new MapStateDescriptor<>("ids", Types.STRING, Types.INT));
            cells = runtime.getMapState(new MapStateDescriptor<>("cells", Types.INT, Types.POJO(Cell.class)));
            users = runtime.getMapState(new MapStateDescriptor<>("users", Types.STRING, Types.LONG));
            features = runtime.getMapState(new MapStateDescriptor<>("features", Types.STRING, Types.LONG));
            newest = runtime.getState(new ValueStateDescriptor<>("newest", Types.INT));
            liveAt = runtime.getState(new ValueStateDescriptor<>("liveAt", Types.LONG));
        }

        private static void note(MapState<String, Long> state, String name, long bit) throws Exception {
            Long bits = state.get(name);
            if (bits == null || (bits & bit) == 0) {
                state.put(name, (bits == null ? 0 : bits) | bit);
            }
        }

        @Override
        public void processElement(Job.Event event, Context context, Collector<Row> out) throws Exception {
            int day = (int) (event.atMs / Job.DAY_MS);
            if (context.timerService().currentWatermark() >= (day + 1) * Job.DAY_MS) {
                throw new IllegalStateException("late: the bound is too short for this load");
            }
            if (ids.contains(event.id)) {
                return;
            }
            ids.put(event.id, day);
            long bit = 1L << (day - first);
            note(users, event.user, bit);
            note(features, event.feature, bit);
            Cell cell = cells.get(day);
            if (cell == null) {
                cell = new Cell();
                // Around midnight the first event of an account may not be its earliest.
                context.timerService().registerEventTimeTimer((day + 1) * Job.DAY_MS);
            }
            cell.events += 1;
            cell.durationMs += event.durationMs;
            cells.put(day, cell);
            Integer last = newest.value();
            if (last == null || last < day) {
                newest.update(day);
            }
            if (liveAt.value() == null) {
                long at = (context.timerService().currentProcessingTime() / liveMs + 1) * liveMs;
                liveAt.update(at);
                context.timerService().registerProcessingTimeTimer(at);
            }
        }

        @Override
        public void onTimer(long timeMs, OnTimerContext context, Collector<Row> out) throws Exception {
            String account = context.getCurrentKey();
            if (context.timeDomain() == org.apache.flink.streaming.api.TimeDomain.PROCESSING_TIME) {
                liveAt.clear();
                rows(account, newest.value(), false, out);
                return;
            }
            int day = (int) (timeMs / Job.DAY_MS) - 1;
            rows(account, day, true, out);
            // Without an event an account is silent, and has its rows all the same.
            context.timerService().registerEventTimeTimer(timeMs + Job.DAY_MS);
            List<String> old = new ArrayList<>();
            for (Map.Entry<String, Integer> id : ids.entries()) {
                if (id.getValue() + Job.ID_DAYS <= day) {
                    old.add(id.getKey());
                }
            }
            for (String id : old) {
                ids.remove(id);
            }
        }

        private void rows(String account, int day, boolean isFinal, Collector<Row> out) throws Exception {
            long[][] measures = new long[Job.WINDOWS.length][4];
            for (Map.Entry<Integer, Cell> cell : cells.entries()) {
                for (int window = 0; window < Job.WINDOWS.length; window++) {
                    if (cell.getKey() <= day && cell.getKey() > day - Job.WINDOWS[window]) {
                        measures[window][0] += cell.getValue().events;
                        measures[window][3] += cell.getValue().durationMs;
                    }
                }
            }
            count(users, day, measures, 1);
            count(features, day, measures, 2);
            for (int window = 0; window < Job.WINDOWS.length; window++) {
                out.collect(new Row(account, Job.row(account, day, Job.WINDOWS[window], measures[window], isFinal)));
            }
        }

        private void count(MapState<String, Long> state, int day, long[][] measures, int at) throws Exception {
            for (Long bits : state.values()) {
                for (int window = 0; window < Job.WINDOWS.length; window++) {
                    measures[window][at] += (bits & Job.bits(Job.WINDOWS[window], day, first)) != 0 ? 1 : 0;
                }
            }
        }
    }
}
