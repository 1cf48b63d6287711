import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import org.HdrHistogram.ConcurrentHistogram;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The same load as `ottla bench`, through Kafka's own client: an open loop whose latencies count
 * from when each record was due, and the same result as JSON. Kafka's own performance tools count
 * from the call of send(), which leaves out what a stall does to the records that were due
 * meanwhile, and make each record's bytes one random number at a time on the client's CPU.
 *
 * <p>Arguments: produce|latency|consume, then name=value pairs; those that begin with "client."
 * are handed to Kafka's client.
 */
public final class KafkaLoad {
    private static final int STAMP_BYTES = 16;
    private static final int POOL_BYTES = 1 << 20;
    private static final long MICROS_MAX = 600_000_000L;

    private final Map<String, String> options = new HashMap<>();
    private final Properties client = new Properties();
    private final String topic;
    private final int recordBytes;
    private final long warmupNanos;
    private final Meter acknowledged = new Meter();
    private final Meter consumed = new Meter();
    private final AtomicLong sent = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private volatile String failure;
    private volatile long origin;

    private static final class Meter {
        final ConcurrentHistogram micros = new ConcurrentHistogram(MICROS_MAX, 3);
        final AtomicLong records = new AtomicLong();
        final AtomicLong bytes = new AtomicLong();
        final AtomicLong seen = new AtomicLong();
        final AtomicLong last = new AtomicLong();

        void done(long due, long done, int size, long warmup) {
            seen.incrementAndGet();
            if (due < warmup) {
                return;
            }
            records.incrementAndGet();
            bytes.addAndGet(size);
            last.accumulateAndGet(done, Math::max);
            micros.recordValue(Math.min(MICROS_MAX, Math.max(0, (done - due) / 1_000)));
        }

        void came(long at, long count, long size) {
            seen.addAndGet(count);
            records.addAndGet(count);
            bytes.addAndGet(size);
            last.accumulateAndGet(at, Math::max);
        }

        String json(long warmup) {
            double seconds = Math.max(1e-9, (last.get() - warmup) / 1e9);
            StringBuilder text = new StringBuilder();
            text.append(String.format("{\"records\": %d, \"bytes\": %d, \"seconds\": %.6f, "
                    + "\"records_per_second\": %.1f, \"mb_per_second\": %.3f, \"latency\": ",
                    records.get(), bytes.get(), seconds, records.get() / seconds,
                    bytes.get() / seconds / 1e6));
            if (micros.getTotalCount() == 0) {
                return text.append("null}").toString();
            }
            return text.append(String.format("{\"mean_ms\": %.3f, \"p50_ms\": %.3f, "
                    + "\"p90_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f, "
                    + "\"p9999_ms\": %.3f, \"max_ms\": %.3f}}", micros.getMean() / 1e3,
                    at(50), at(90), at(99), at(99.9), at(99.99), micros.getMaxValue() / 1e3))
                    .toString();
        }

        private double at(double percentile) {
            return micros.getValueAtPercentile(percentile) / 1e3;
        }
    }

    private KafkaLoad(String[] arguments) {
        for (int i = 1; i < arguments.length; i++) {
            int split = arguments[i].indexOf('=');
            String name = arguments[i].substring(0, split);
            String value = arguments[i].substring(split + 1);
            if (name.startsWith("client.")) {
                client.put(name.substring("client.".length()), value);
            } else {
                options.put(name, value);
            }
        }
        topic = options.get("topic");
        recordBytes = Integer.parseInt(options.getOrDefault("record-bytes", "1024"));
        warmupNanos = (long) (Double.parseDouble(options.getOrDefault("warmup", "0")) * 1e9);
    }

    private long number(String name, long otherwise) {
        return options.containsKey(name) ? Long.parseLong(options.get(name)) : otherwise;
    }

    private long now() {
        return System.nanoTime() - origin;
    }

    private KafkaProducer<byte[], byte[]> producer() {
        return new KafkaProducer<>(client, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private KafkaConsumer<byte[], byte[]> consumer() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", client.get("bootstrap.servers"));
        return new KafkaConsumer<>(
                properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private void write(long run, CountDownLatch gate) {
        byte[] pool = new byte[POOL_BYTES + recordBytes];
        Random random = new Random(7);
        for (int i = 0; i < pool.length; i++) {
            pool[i] = (byte) ('0' + random.nextInt(64));
        }
        double rate = Double.parseDouble(options.getOrDefault("rate", "0"));
        long records = number("records", Long.MAX_VALUE);
        long end = (long) (Double.parseDouble(options.getOrDefault("duration", "1e9")) * 1e9);
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            producer.partitionsFor(topic);
            gate.countDown();
            await(gate);
            int from = 0;
            for (long n = 0; n < records; n++) {
                long due = rate > 0 ? (long) (n * (1e9 / rate)) : now();
                if (due >= end) {
                    break;
                }
                for (long ahead = due - now(); ahead > 0; ahead = due - now()) {
                    // Records due within 100 us are sent together, as `ottla bench` does.
                    LockSupport.parkNanos(Math.max(ahead, 100_000));
                }
                byte[] value = new byte[recordBytes];
                System.arraycopy(pool, from, value, 0, recordBytes);
                from = (from + (recordBytes | 1)) % POOL_BYTES;
                if (run != 0) {
                    ByteBuffer.wrap(value).putLong(run).putLong(due);
                }
                sent.incrementAndGet();
                producer.send(new ProducerRecord<>(topic, value), (metadata, error) -> {
                    if (error == null) {
                        acknowledged.done(due, now(), recordBytes, warmupNanos);
                    } else {
                        failed.incrementAndGet();
                        failure = String.valueOf(error);
                    }
                });
            }
            producer.flush();
        }
    }

    private static void await(CountDownLatch gate) {
        try {
            gate.await();
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    private List<TopicPartition> share(KafkaConsumer<?, ?> consumer, int reader, int readers) {
        List<TopicPartition> mine = new ArrayList<>();
        for (PartitionInfo partition : consumer.partitionsFor(topic)) {
            if (partition.partition() % readers == reader) {
                mine.add(new TopicPartition(topic, partition.partition()));
            }
        }
        return mine;
    }

    private void catchUp(int reader, int readers, CountDownLatch gate) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            List<TopicPartition> mine = share(consumer, reader, readers);
            Map<TopicPartition, Long> starts = consumer.beginningOffsets(mine);
            Map<TopicPartition, Long> open = new HashMap<>(consumer.endOffsets(mine));
            open.entrySet().removeIf(entry -> entry.getValue() <= starts.get(entry.getKey()));
            gate.countDown();
            await(gate);
            consumer.assign(open.keySet());
            starts.keySet().retainAll(open.keySet());
            starts.forEach(consumer::seek);
            while (!open.isEmpty()) {
                ConsumerRecords<byte[], byte[]> batch = consumer.poll(Duration.ofMillis(100));
                long size = 0;
                for (ConsumerRecord<byte[], byte[]> record : batch) {
                    size += record.value().length;
                }
                if (batch.count() > 0) {
                    consumed.came(now(), batch.count(), size);
                }
                open.entrySet().removeIf(
                        entry -> consumer.position(entry.getKey()) >= entry.getValue());
            }
        }
    }

    private void follow(long run, CountDownLatch gate, AtomicBoolean written) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            List<TopicPartition> mine = share(consumer, 0, 1);
            consumer.assign(mine);
            consumer.seekToEnd(mine);
            mine.forEach(consumer::position);
            gate.countDown();
            await(gate);
            long last = now();
            while (!written.get() || consumed.seen.get() < acknowledged.seen.get()) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                    ByteBuffer value = ByteBuffer.wrap(record.value());
                    if (record.value().length >= STAMP_BYTES && value.getLong() == run) {
                        last = now();
                        consumed.done(value.getLong(), last, record.value().length, warmupNanos);
                    }
                }
                if (now() - last > 30_000_000_000L) {
                    throw new IllegalStateException("nothing came for 30 s");
                }
            }
        }
    }

    private void run(String bench) throws Exception {
        int readers = (int) number("consumers", 1);
        boolean produces = !bench.equals("consume");
        boolean consumes = !bench.equals("produce") && readers > 0;
        int clients = (produces ? 1 : 0) + (bench.equals("consume") ? readers : consumes ? 1 : 0);
        // The last to be ready starts the clock.
        CountDownLatch gate = new CountDownLatch(clients) {
            @Override
            public void countDown() {
                origin = System.nanoTime();
                super.countDown();
            }
        };
        long run = bench.equals("latency") ? new Random().nextLong() | 1 : 0;
        AtomicBoolean written = new AtomicBoolean();
        List<Thread> threads = new ArrayList<>();
        List<Throwable> errors = new ArrayList<>();
        Runnable[] work = new Runnable[clients];
        for (int i = 0; i < clients; i++) {
            int number = i;
            if (bench.equals("consume")) {
                work[i] = () -> catchUp(number, readers, gate);
            } else if (i == 0) {
                work[i] = () -> {
                    write(run, gate);
                    written.set(true);
                };
            } else {
                work[i] = () -> follow(run, gate, written);
            }
        }
        for (Runnable each : work) {
            Thread thread = new Thread(each);
            thread.setUncaughtExceptionHandler((of, error) -> {
                error.printStackTrace();
                Runtime.getRuntime().halt(1);
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
        System.out.printf("{\"bench\": \"%s\", \"sent\": %d, \"failed\": %d, \"failure\": %s, "
                + "\"acknowledged\": %s, \"consumed\": %s}%n", bench, sent.get(), failed.get(),
                failure == null ? "null" : "\"" + failure.replace('"', '\'') + "\"",
                produces ? acknowledged.json(warmupNanos) : "null",
                consumes ? consumed.json(bench.equals("consume") ? 0 : warmupNanos) : "null");
        System.out.flush();
        System.exit(failed.get() == 0 ? 0 : 3);
    }

    public static void main(String[] arguments) throws Exception {
        new KafkaLoad(arguments).run(arguments[0]);
    }
}
