/*
 * load: a load generator for Peyk. One thread, epoll, libc only; websocket.h is its way to speak.
 *
 *     load -p PORT [-n subscribers] [-C channels] [-P publishers] [-k in flight | -r messages/s | -i idle seconds]
 *          [-d measured seconds] [-b bytes of text] [-w seconds without a delivery] [PID ...]
 *
 * Subscriber i follows channel c<i mod C>. Only publisher c mod P publishes to channel c, so its messages have one
 * order. Their text begins with a mark, ~channel.number.nanoseconds~, numbered from 0 in each channel. Whatever comes
 * back is searched for marks, and each subscriber's are checked: every number once, in order, offsets without a hole.
 *
 * Three ways to run:  -k  closed loop: K messages are under way at any time (as fast as the server can)
 *                     -r  open loop: a fixed rate, whatever the server does (latency)
 *                     -i  connections only (memory)
 * PIDs are the server's processes: their CPU time and memory are read from /proc and reported in the order given.
 *
 * Prints one JSON object. Exit code: 0; 1 if anything was lost, duplicated, out of order or refused, or a connection
 * ended; 2 if it could not run.
 */
#define _GNU_SOURCE
#include "websocket.h"
#include <sys/resource.h>

enum {
    OPENING_AT_ONCE = 64, /* connections being opened at a time */
    WINDOW = 1024,        /* numbers back in which a late message is told from a duplicate */
    MAX_PROCESSES = 16,
};
static const double CONNECT_TIMEOUT = 90, SETTLE = 0.5, WARM_UP = 0.5, LINGER = 0.3; /* seconds */

/* Its connection comes first, so that a pointer to that is a pointer to the client. */
struct client {
    struct connection connection;
    enum { GREETING, SUBSCRIBING, READY } stage;
    bool publishes;
    int index, channel;
    uint64_t next, offset;      /* a subscriber's next number and last offset */
    uint64_t seen[WINDOW / 64]; /* which of the last WINDOW numbers came */
};

/* What was asked for. */
static int port, subscribers = 1, channels = 1, publishers = 1, in_flight, text_size = 100;
static double rate, seconds = 5, idle = -1, patience = 5;
static int processes[MAX_PROCESSES], process_count;

/* What happened. */
static struct {
    uint64_t published, acknowledged, expected, delivered;
    uint64_t duplicated, out_of_order, offset_breaks, misrouted, malformed, errors, other, disconnects;
} count;
static bool measuring, stalled;

static int ready, opening;
static struct client *clients;        /* subscribers, then publishers */
static uint64_t *numbers, *listeners; /* per channel: next number to publish, ready subscribers */

/* The first few surprises are shown, so that a failed run explains itself. */
static void surprise(const struct client *client, const char *what, const char *text, size_t length)
{
    static int shown;
    if (shown++ < 10)
        fprintf(stderr, "load: %s %d: %s: %.*s\n", client->publishes ? "publisher" : "subscriber", client->index, what,
                (int)(length < 300 ? length : 300), text);
}

/* -- latency: a histogram whose buckets are 1/64 of their value wide */

enum { FINE = 6, BUCKETS = (64 - FINE + 1) << FINE };
static uint64_t latency[BUCKETS], latency_count, latency_max;

static void record_latency(uint64_t ns)
{
    int shift = ns < 2u << FINE ? 0 : 63 - __builtin_clzll(ns) - FINE; /* keeps the leading FINE + 1 bits */
    latency[((unsigned)shift << FINE) + (unsigned)(ns >> shift)]++;
    latency_count++;
    if (ns > latency_max)
        latency_max = ns;
}

static double percentile_ms(double share)
{
    uint64_t wanted = (uint64_t)(share * (double)latency_count), passed = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        passed += latency[i];
        if (passed > wanted) {
            unsigned shift = i < 2u << FINE ? 0 : (i >> FINE) - 1;
            double middle = ((double)(i - (shift << FINE)) + 0.5) * (double)(1ull << shift);
            return (middle < (double)latency_max ? middle : (double)latency_max) / 1e6;
        }
    }
    return (double)latency_max / 1e6;
}

/* -- what comes back */

/* Digits and what ends them; `at` moves behind. */
static bool read_number(const char **at, const char *stop, char terminator, uint64_t *value)
{
    const char *p = *at;
    for (*value = 0; p < stop && *p >= '0' && *p <= '9'; p++)
        *value = *value * 10 + (uint64_t)(*p - '0');
    if (p == *at || p == stop || *p != terminator)
        return false;
    *at = p + 1;
    return true;
}

/* Returns whether the number is new to this subscriber. */
static bool check_number(struct client *client, uint64_t number)
{
    uint64_t *word = &client->seen[number % WINDOW / 64], bit = 1ull << number % 64;
    if (number < client->next) {
        if (client->next - number > WINDOW || *word & bit) {
            count.duplicated++;
            return false;
        }
        count.out_of_order++;
    } else if (number - client->next >= WINDOW) {
        memset(client->seen, 0, sizeof client->seen);
    } else {
        for (uint64_t skipped = client->next; skipped < number; skipped++)
            client->seen[skipped % WINDOW / 64] &= ~(1ull << skipped % 64);
    }
    *word |= bit;
    if (number >= client->next)
        client->next = number + 1;
    return true;
}

static void check_offset(struct client *client, const char *line, const char *mark)
{
    uint64_t offset = 0;
    const char *p = memmem(line, (size_t)(mark - line), "\"offset\":", 9);
    if (p)
        p += 9, read_number(&p, mark, ',', &offset);
    if (!offset || (client->offset && offset != client->offset + 1))
        count.offset_breaks++;
    client->offset = offset;
}

static void on_publication(struct client *client, const char *line, const char *mark, const char *stop)
{
    uint64_t channel, number, sent;
    const char *p = mark + 1;
    if (!read_number(&p, stop, '.', &channel) || !read_number(&p, stop, '.', &number)
        || !read_number(&p, stop, '~', &sent)) {
        count.malformed++;
        surprise(client, "malformed", line, (size_t)(stop - line));
    } else if (channel != (uint64_t)client->channel) {
        count.misrouted++;
        surprise(client, "misrouted", line, (size_t)(stop - line));
    } else {
        check_offset(client, line, mark);
        if (check_number(client, number)) {
            count.delivered++;
            if (measuring)
                record_latency(now - sent);
        }
    }
}

static void on_reply(struct client *client, const char *line, size_t length)
{
    if (memmem(line, length, "\"error\":", 8)) {
        count.errors++;
        surprise(client, "refused", line, length);
        if (client->stage != READY)
            end(&client->connection, "refused");
    } else if (client->stage == GREETING && !client->publishes) {
        client->stage = SUBSCRIBING;
        send_text(&client->connection, "{\"id\":2,\"subscribe\":{\"channel\":\"c%d\"}}", client->channel);
    } else if (client->stage != READY) {
        client->stage = READY;
        ready++, opening--;
        if (!client->publishes)
            listeners[client->channel]++;
    } else {
        count.acknowledged++;
    }
}

/* One JSON object from the server: a push, a ping ({}, answered likewise), or the reply to our last command. */
static void on_line(struct connection *c, const char *line, size_t length)
{
    static const char push[] = "{\"push\":";
    struct client *client = (struct client *)c;
    if (length > sizeof push && !memcmp(line, push, sizeof push - 1)) {
        const char *mark = memchr(line, '~', length);
        if (mark)
            on_publication(client, line, mark, line + length);
        else
            count.other++;
    } else if (length == 2) {
        send_text(c, "{}");
    } else {
        on_reply(client, line, length);
    }
}

static void on_open(struct connection *c)
{
    struct client *client = (struct client *)c;
    const char *kind = client->publishes ? "p" : "u";
    send_text(c, "{\"id\":1,\"connect\":{\"data\":{\"user\":\"%s%d\"}}}", kind, client->index);
}

static void on_end(struct connection *c, const char *why)
{
    struct client *client = (struct client *)c;
    surprise(client, "closed", why, strlen(why));
    *(client->stage == READY ? &ready : &opening) -= 1;
    count.disconnects++;
}

/* -- publishing */

static void publish(void)
{
    static uint64_t turn;
    static char text[4096];
    int channel = (int)(turn++ % (uint64_t)channels);
    struct connection *c = &clients[subscribers + channel % publishers].connection;
    now = clock_ns();
    int length = sprintf(text, "{\"id\":3,\"publish\":{\"channel\":\"c%d\",\"data\":{\"text\":\"", channel);
    int mark = sprintf(text + length, "~%d.%llu.%llu~", channel, (unsigned long long)numbers[channel]++,
                       (unsigned long long)now);
    if (mark < text_size)
        memset(text + length + mark, 'x', (size_t)(text_size - mark));
    length += mark < text_size ? text_size : mark;
    length += sprintf(text + length, "\"}}}");
    if (c->state != CLOSED)
        add_frame(c, TEXT, text, (size_t)length);
    count.published++;
    count.expected += listeners[channel];
}

/* Publish what is due; returns when to look again. */
static uint64_t publish_due(uint64_t start)
{
    static uint64_t delivered_before, give_up;
    if (!in_flight) {
        uint64_t due = (uint64_t)((double)(now - start) / 1e9 * rate) + 1;
        while (count.published < due)
            publish();
        return start + (uint64_t)((double)due / rate * 1e9);
    }
    /* What is under way is counted in deliveries: a message is done when its last subscriber has it. */
    uint64_t limit = (uint64_t)(in_flight - 1) * (uint64_t)(subscribers / channels);
    while (count.expected - count.delivered <= limit)
        publish();
    if (count.delivered != delivered_before || !give_up)
        give_up = now + (uint64_t)(patience * 1e9);
    delivered_before = count.delivered;
    stalled = now > give_up;
    return give_up;
}

static void flush_publishers(void)
{
    for (int i = subscribers; i < subscribers + publishers; i++)
        if (clients[i].connection.state != CLOSED && !clients[i].connection.wants_write)
            flush(&clients[i].connection);
}

/* -- the server's processes */

struct usage {
    double cpu; /* seconds */
    long rss;   /* KiB */
};

static struct usage usage_of(int pid)
{
    char path[64], text[1024];
    unsigned long user = 0, system = 0;
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        fail("no process %d", pid);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    const char *fields = strrchr(text, ')'); /* 14, 15 and 24 of proc(5), counted from behind the name */
    const char *format = "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %*u %ld";
    if (!fields || sscanf(fields + 2, format, &user, &system, &pages) != 3)
        fail("%s reads otherwise than expected", path);
    double ticks = (double)sysconf(_SC_CLK_TCK);
    return (struct usage){(double)(user + system) / ticks, pages * (sysconf(_SC_PAGESIZE) / 1024)};
}

enum moment { BEFORE, CONNECTED, STARTED, STOPPED, MOMENTS };
static struct usage usage[MOMENTS][MAX_PROCESSES];
static double own_cpu[MOMENTS];

static void measure(enum moment moment)
{
    struct timespec own;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    own_cpu[moment] = (double)own.tv_sec + (double)own.tv_nsec / 1e9;
    for (int i = 0; i < process_count; i++)
        usage[moment][i] = usage_of(processes[i]);
}

/* -- the run */

static struct {
    double seconds;
    uint64_t published, delivered;
} window;

static uint64_t after(double delay)
{
    now = clock_ns();
    return now + (uint64_t)(delay * 1e9);
}

/* Returns the seconds it took. */
static double connect_all(void)
{
    int total = subscribers + publishers, next = 0;
    uint64_t deadline = after(CONNECT_TIMEOUT), start = now;
    while (ready < total) {
        for (; next < total && opening < OPENING_AT_ONCE; opening++)
            open_connection(&clients[next++].connection, port);
        work_until(deadline);
        if (count.disconnects || now >= deadline)
            fail("only %d of %d connections became ready", ready, total);
    }
    return (double)(now - start) / 1e9;
}

static void run(void)
{
    uint64_t start = now, begin = after(WARM_UP), finish = UINT64_MAX;
    while (now < finish && !stalled) {
        uint64_t wake = publish_due(start), change = measuring ? finish : begin;
        flush_publishers();
        work_until(wake < change ? wake : change);
        if (!measuring && now >= begin) {
            measuring = true;
            measure(STARTED);
            window.published = count.published;
            window.delivered = count.delivered;
            finish = after(seconds);
            begin = now;
        }
    }
    window.seconds = (double)(now - begin) / 1e9;
    window.published = count.published - window.published;
    window.delivered = count.delivered - window.delivered;
    measure(STOPPED);
    for (uint64_t deadline = after(patience); now < deadline; work_until(deadline))
        if (count.delivered >= count.expected && deadline > now + (uint64_t)(LINGER * 1e9))
            deadline = after(LINGER); /* all is here; a duplicate may still come */
}

static void report_run(void)
{
    printf(",\"seconds\":%.3f,\"published_in_window\":%llu,\"publishes_per_s\":%.1f,\"deliveries_per_s\":%.1f",
           window.seconds, (unsigned long long)window.published, (double)window.published / window.seconds,
           (double)window.delivered / window.seconds);
    printf(",\"generator_cpu_s\":%.3f", own_cpu[STOPPED] - own_cpu[STARTED]);
    printf(",\"latency_ms\":{\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}", percentile_ms(.5),
           percentile_ms(.9), percentile_ms(.99), percentile_ms(.999), (double)latency_max / 1e6);
}

/* Print everything; returns the exit code. */
static int report(double connect_seconds)
{
#define SHOW(name, value) printf(",\"" name "\":%llu", (unsigned long long)(value))
    uint64_t lost = count.expected - count.delivered;
    printf("{\"mode\":\"%s\",\"subscribers\":%d,\"publishers\":%d,\"channels\":%d,\"in_flight\":%d,\"rate\":%g",
           idle >= 0 ? "idle" : in_flight ? "closed" : "open", subscribers, publishers, channels, in_flight, rate);
    SHOW("published", count.published), SHOW("acknowledged", count.acknowledged), SHOW("expected", count.expected);
    SHOW("delivered", count.delivered), SHOW("lost", lost), SHOW("duplicated", count.duplicated);
    SHOW("out_of_order", count.out_of_order), SHOW("offset_breaks", count.offset_breaks);
    SHOW("misrouted", count.misrouted), SHOW("malformed", count.malformed), SHOW("errors", count.errors);
    SHOW("other_pushes", count.other), SHOW("disconnects", count.disconnects), SHOW("reads", reads);
    if (idle < 0)
        report_run();
    printf(",\"stalled\":%s,\"connect_s\":%.3f,\"processes\":[", stalled ? "true" : "false", connect_seconds);
    for (int i = 0; i < process_count; i++)
        printf("%s{\"pid\":%d,\"cpu_s\":%.2f,\"connect_cpu_s\":%.2f,\"rss_kib_before\":%ld,\"rss_kib_connected\":%ld}",
               i ? "," : "", processes[i], usage[STOPPED][i].cpu - usage[STARTED][i].cpu,
               usage[CONNECTED][i].cpu - usage[BEFORE][i].cpu, usage[BEFORE][i].rss, usage[CONNECTED][i].rss);
    printf("]}\n");
    return lost || count.duplicated || count.out_of_order || count.offset_breaks || count.misrouted || count.malformed
           || count.errors || count.disconnects || stalled;
}

static void read_options(int argc, char **argv)
{
    for (int option; (option = getopt(argc, argv, "p:n:C:P:k:r:i:d:b:w:")) != -1;) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'n': subscribers = atoi(optarg); break;
        case 'C': channels = atoi(optarg); break;
        case 'P': publishers = atoi(optarg); break;
        case 'k': in_flight = atoi(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'i': idle = atof(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'b': text_size = atoi(optarg); break;
        case 'w': patience = atof(optarg); break;
        default: fail("unknown option; the head of load.c lists them");
        }
    }
    while (optind < argc && process_count < MAX_PROCESSES)
        processes[process_count++] = atoi(argv[optind++]);
    if (port <= 0 || (in_flight > 0) + (rate > 0) + (idle >= 0) != 1)
        fail("needs -p PORT and one of -k, -r, -i");
    if (publishers < 1 || publishers > channels || channels > subscribers || seconds <= 0)
        fail("needs subscribers >= channels >= publishers >= 1, and time");
    if (text_size < 0 || text_size > 3800)
        fail("-b takes 0 to 3800 bytes");
    if (idle >= 0)
        publishers = 0;
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    struct rlimit files; /* a connection is a file: use all that the system allows */
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    int total = subscribers + publishers;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    clients = calloc((size_t)total, sizeof *clients);
    numbers = calloc((size_t)channels, sizeof *numbers);
    listeners = calloc((size_t)channels, sizeof *listeners);
    if (epoll < 0 || !clients || !numbers || !listeners)
        fail("out of memory");
    for (int i = 0; i < total; i++) {
        clients[i].publishes = i >= subscribers;
        clients[i].index = clients[i].publishes ? i - subscribers : i;
        clients[i].channel = clients[i].index % channels;
    }

    measure(BEFORE);
    double connect_seconds = connect_all();
    for (uint64_t deadline = after(idle >= 0 ? idle : SETTLE); now < deadline;)
        work_until(deadline);
    measure(CONNECTED);
    if (idle < 0)
        run();
    return report(connect_seconds);
}
