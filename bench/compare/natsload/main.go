// Command natsload puts the load of `ottla bench` on NATS JetStream: an open loop whose latencies
// count from when each message was due, and the same result as JSON.
//
// A stream stands for a partition: messages go to `streams` streams in turn, each acknowledged by
// a quorum of its replicas. JetStream has no batches of a producer's; many messages are in flight
// instead.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	microsMax  = 600_000_000
	poolBytes  = 1 << 20
	stampBytes = 16
	patience   = 30 * time.Second
)

type latency struct {
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	P9999 float64 `json:"p9999_ms"`
	Max   float64 `json:"max_ms"`
}

type stretch struct {
	Records   int64    `json:"records"`
	Bytes     int64    `json:"bytes"`
	Seconds   float64  `json:"seconds"`
	PerSecond float64  `json:"records_per_second"`
	Megabytes float64  `json:"mb_per_second"`
	Latency   *latency `json:"latency"`
}

type meter struct {
	sync.Mutex
	micros         *hdrhistogram.Histogram
	records, bytes int64
	seen           int64
	last           time.Duration
}

func newMeter() *meter {
	return &meter{micros: hdrhistogram.New(1, microsMax, 3)}
}

func (m *meter) done(due, done time.Duration, size int, warmup time.Duration, timed bool) {
	m.Lock()
	defer m.Unlock()
	m.seen++
	if due < warmup {
		return
	}
	m.records++
	m.bytes += int64(size)
	m.last = max(m.last, done)
	if timed {
		_ = m.micros.RecordValue(min(microsMax, max(1, (done-due).Microseconds())))
	}
}

func (m *meter) count() int64 {
	m.Lock()
	defer m.Unlock()
	return m.seen
}

func (m *meter) total(warmup time.Duration) *stretch {
	m.Lock()
	defer m.Unlock()
	seconds := max(1e-9, (m.last - warmup).Seconds())
	s := &stretch{Records: m.records, Bytes: m.bytes, Seconds: seconds,
		PerSecond: float64(m.records) / seconds, Megabytes: float64(m.bytes) / seconds / 1e6}
	if m.micros.TotalCount() > 0 {
		at := func(q float64) float64 { return float64(m.micros.ValueAtQuantile(q)) / 1e3 }
		s.Latency = &latency{Mean: m.micros.Mean() / 1e3, P50: at(50), P90: at(90), P99: at(99),
			P999: at(99.9), P9999: at(99.99), Max: float64(m.micros.Max()) / 1e3}
	}
	return s
}

type load struct {
	streams, recordBytes, pending int
	records                       int64
	rate                          float64
	duration, warmup              time.Duration
	run                           uint64
	origin                        time.Time
	acknowledged, consumed        *meter
	sent, failed                  int64
	failure                       atomic.Value
}

func (l *load) now() time.Duration { return time.Since(l.origin) }

func subject(prefix string, stream int) string { return fmt.Sprintf("%s.%d", prefix, stream) }

func name(prefix string, stream int) string { return fmt.Sprintf("%s-%d", prefix, stream) }

type waiting struct {
	due    time.Duration
	future jetstream.PubAckFuture
}

// write publishes in turn to each stream; acknowledgements of one stream come in order, so one
// goroutine a stream awaits them.
func (l *load) write(js jetstream.JetStream, topic string) error {
	pool := make([]byte, poolBytes+l.recordBytes)
	source := rand.New(rand.NewSource(7))
	for i := range pool {
		pool[i] = byte('0' + source.Intn(64))
	}
	var collectors sync.WaitGroup
	queues := make([]chan waiting, l.streams)
	for i := range queues {
		queues[i] = make(chan waiting, l.pending)
		collectors.Add(1)
		go func(queue chan waiting) {
			defer collectors.Done()
			for w := range queue {
				select {
				case <-w.future.Ok():
					l.acknowledged.done(w.due, l.now(), l.recordBytes, l.warmup, true)
				case err := <-w.future.Err():
					atomic.AddInt64(&l.failed, 1)
					l.failure.Store(err.Error())
				}
			}
		}(queues[i])
	}
	var outcome error
	from := 0
	for n := int64(0); n < l.records; n++ {
		due := l.now()
		if l.rate > 0 {
			due = time.Duration(float64(n) * 1e9 / l.rate)
		}
		if due >= l.duration {
			break
		}
		for ahead := due - l.now(); ahead > 0; ahead = due - l.now() {
			time.Sleep(max(ahead, 100*time.Microsecond))
		}
		value := make([]byte, l.recordBytes)
		copy(value, pool[from:])
		from = (from + (l.recordBytes | 1)) % poolBytes
		if l.run != 0 {
			binary.BigEndian.PutUint64(value, l.run)
			binary.BigEndian.PutUint64(value[8:], uint64(due))
		}
		stream := int(n) % l.streams
		// With too many messages in flight this waits for one of them.
		future, err := js.PublishAsync(subject(topic, stream), value,
			jetstream.WithStallWait(patience))
		if err != nil {
			outcome = err
			break
		}
		l.sent++
		queues[stream] <- waiting{due, future}
	}
	for _, queue := range queues {
		close(queue)
	}
	collectors.Wait()
	return outcome
}

// read consumes every stream; it ends when `enough` messages came.
func (l *load) read(ctx context.Context, js jetstream.JetStream, topic string,
	policy jetstream.DeliverPolicy, enough func() int64) (func() error, error) {
	var contexts []jetstream.ConsumeContext
	for i := 0; i < l.streams; i++ {
		consumer, err := js.OrderedConsumer(ctx, name(topic, i),
			jetstream.OrderedConsumerConfig{DeliverPolicy: policy})
		if err != nil {
			return nil, err
		}
		consuming, err := consumer.Consume(func(message jetstream.Msg) {
			data, now := message.Data(), l.now()
			if l.run == 0 {
				l.consumed.done(now, now, len(data), 0, false)
			} else if len(data) >= stampBytes && binary.BigEndian.Uint64(data) == l.run {
				due := time.Duration(binary.BigEndian.Uint64(data[8:]))
				l.consumed.done(due, now, len(data), l.warmup, true)
			}
		})
		if err != nil {
			return nil, err
		}
		contexts = append(contexts, consuming)
	}
	return func() error {
		defer func() {
			for _, consuming := range contexts {
				consuming.Stop()
			}
		}()
		seen, moved := l.consumed.count(), time.Now()
		for seen < enough() {
			time.Sleep(2 * time.Millisecond)
			if now := l.consumed.count(); now != seen {
				seen, moved = now, time.Now()
			} else if time.Since(moved) > patience {
				return fmt.Errorf("nothing came for %v; %d messages were read", patience, seen)
			}
		}
		return nil
	}, nil
}

func (l *load) create(ctx context.Context, js jetstream.JetStream, topic string, replicas int) error {
	for i := 0; i < l.streams; i++ {
		config := jetstream.StreamConfig{Name: name(topic, i), Subjects: []string{subject(topic, i)},
			Replicas: replicas, Storage: jetstream.FileStorage}
		var err error
		// A cluster that has just started has no leader at first.
		for try := 0; try < 100; try++ {
			if _, err = js.CreateStream(ctx, config); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *load) perform(bench, topic string, replicas int, js jetstream.JetStream) error {
	ctx := context.Background()
	switch bench {
	case "create":
		return l.create(ctx, js, topic, replicas)
	case "produce":
		l.origin = time.Now()
		return l.write(js, topic)
	case "consume":
		var messages int64
		for i := 0; i < l.streams; i++ {
			stream, err := js.Stream(ctx, name(topic, i))
			if err != nil {
				return err
			}
			messages += int64(stream.CachedInfo().State.Msgs)
		}
		l.origin = time.Now()
		wait, err := l.read(ctx, js, topic, jetstream.DeliverAllPolicy,
			func() int64 { return messages })
		if err != nil {
			return err
		}
		return wait()
	case "latency":
		l.run = rand.Uint64() | 1
		var written atomic.Int64
		written.Store(1 << 62)
		l.origin = time.Now()
		wait, err := l.read(ctx, js, topic, jetstream.DeliverNewPolicy, written.Load)
		if err != nil {
			return err
		}
		l.origin = time.Now()
		if err := l.write(js, topic); err != nil {
			return err
		}
		written.Store(l.acknowledged.count())
		return wait()
	}
	return fmt.Errorf("'%s' is none of create, produce, consume, latency", bench)
}

func main() {
	l := &load{acknowledged: newMeter(), consumed: newMeter()}
	servers := flag.String("servers", nats.DefaultURL, "servers")
	bench := flag.String("bench", "produce", "create, produce, consume or latency")
	topic := flag.String("topic", "bench", "prefix of the streams")
	replicas := flag.Int("replicas", 3, "replicas of each stream")
	duration := flag.Float64("duration", 1e9, "seconds")
	warmup := flag.Float64("warmup", 0, "seconds that do not count")
	flag.IntVar(&l.streams, "streams", 12, "streams")
	flag.IntVar(&l.recordBytes, "record-bytes", 1024, "bytes of each message")
	flag.IntVar(&l.pending, "pending", 4000, "messages in flight")
	flag.Int64Var(&l.records, "records", 1<<62, "messages")
	flag.Float64Var(&l.rate, "rate", 0, "messages a second; 0 is as many as go")
	flag.Parse()
	l.duration = time.Duration(min(*duration, 9e9) * 1e9)
	l.warmup = time.Duration(*warmup * 1e9)
	if err := l.main(*servers, *bench, *topic, *replicas); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func (l *load) main(servers, bench, topic string, replicas int) error {
	connection, err := nats.Connect(servers)
	if err != nil {
		return err
	}
	defer connection.Close()
	js, err := jetstream.New(connection, jetstream.WithPublishAsyncMaxPending(l.pending))
	if err != nil {
		return err
	}
	if err := l.perform(bench, topic, replicas, js); err != nil {
		return err
	}
	result := map[string]any{"bench": bench, "sent": l.sent, "failed": l.failed,
		"failure": l.failure.Load(), "acknowledged": nil, "consumed": nil}
	if bench == "produce" || bench == "latency" {
		result["acknowledged"] = l.acknowledged.total(l.warmup)
	}
	if bench == "consume" {
		result["consumed"] = l.consumed.total(0)
	} else if bench == "latency" {
		result["consumed"] = l.consumed.total(l.warmup)
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}
