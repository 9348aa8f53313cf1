/*
 * load: a load generator for Peyk and its peers. One thread, epoll, libc only. websocket.h is its way to speak,
 * dialect.h what different servers want to hear, measure.h how it counts time, CPU and memory.
 *
 *     load -p PORT [-D dialect] [-n subscribers] [-C channels] [-s subscribers a channel] [-P publishers]
 *          [-k in flight [-a] | -r messages/s | -i idle seconds | -R epoch:count]
 *          [-d measured seconds] [-b bytes of text] [-w seconds without a delivery] [-f address it comes from] [PID ...]
 *
 * Channel c is followed by `s` subscribers in a row, from number c*s on, around the circle; so a subscriber may follow
 * many channels or none. Only publisher c mod P publishes to channel c, so its messages have one order. Their text
 * begins with a mark, ~channel.number.nanoseconds~, numbered from 0 in each channel. Whatever comes back is searched
 * for marks, and those of each subscription are checked: every number once, in order, offsets without a hole.
 *
 * Ways to run:  -k  closed loop: K messages are under way at any time (as fast as the server can)
 *               -k -a  the same without subscribers: a message is under way until its publisher is answered
 *               -r  open loop: a fixed rate, whatever the server does (latency)
 *               -i  connections only (memory)
 *               -R  recovery: all connect, then all at once ask for the `count` messages the channel holds
 * PIDs are the server's processes: their CPU time and memory are reported in the order given.
 *
 * Prints one JSON object. Exit code: 0; 1 if anything was lost, duplicated, out of order or refused, or a connection
 * ended; 2 if it could not run.
 */
#define _GNU_SOURCE
#include "websocket.h"
#include "dialect.h"
#include "measure.h"
#include <sys/resource.h>

enum {
    OPENING_AT_ONCE = 64, /* connections being opened at a time */
    WINDOW = 1024,        /* numbers back in which a late message is told from a duplicate */
    IDS = 1 << 16,        /* commands whose time of sending is known */
};
static const double CONNECT_TIMEOUT = 180, SETTLE = 0.5, WARM_UP = 0.5, LINGER = 0.3, DRAIN = 30; /* seconds */

/* One subscriber in one channel. */
struct subscription {
    uint64_t next, offset;      /* the next number, and the last offset */
    uint64_t seen[WINDOW / 64]; /* which of the last WINDOW numbers came */
};

/* Its connection comes first, so that a pointer to that is a pointer to the client. */
struct client {
    struct connection connection;
    enum { LISTENING, GREETING, SUBSCRIBING, RECOVERING, READY } stage;
    bool publishes;
    int index, joining;        /* subscriptions that are not confirmed yet */
    int channel;               /* where the last message came from, */
    struct subscription *last; /* and who followed it */
};

/* What was asked for. */
static const struct dialect *dialect = dialects;
static int port, subscribers = 1, channels = 1, each, publishers = 1, in_flight, text_size = 100;
static bool answers_count;
static double rate, seconds = 5, idle = -1, patience = 5;
static const char *from;
static char epoch[64];
static int missed; /* messages to recover */

/* What happened. */
static struct {
    uint64_t published, acknowledged, expected, delivered;
    uint64_t duplicated, out_of_order, offset_breaks, misrouted, malformed, errors, other, disconnects;
} count;
static bool measuring, stalled;
static uint64_t recovery_start;

static int ready, opening;
static struct client *clients; /* subscribers, then publishers */
static struct subscription *subscriptions; /* channels * each */
static uint64_t *numbers, *listeners; /* per channel: next number to publish, ready subscribers */
static uint64_t sent_at[IDS];         /* when the command of an id was sent; 0: it has its answer */

/* The first few surprises are shown, so that a failed run explains itself. */
static void surprise(const struct client *client, const char *what, const char *text, size_t length)
{
    static int shown;
    if (shown++ < 10)
        fprintf(stderr, "load: %s %d: %s: %.*s\n", client->publishes ? "publisher" : "subscriber", client->index, what,
                (int)(length < 300 ? length : 300), text);
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

/* Returns whether the number is new to this subscription. */
static bool check_number(struct subscription *s, uint64_t number)
{
    uint64_t *word = &s->seen[number % WINDOW / 64], bit = 1ull << number % 64;
    if (number < s->next) {
        if (s->next - number > WINDOW || *word & bit) {
            count.duplicated++;
            return false;
        }
        count.out_of_order++;
    } else if (number - s->next >= WINDOW) {
        memset(s->seen, 0, sizeof s->seen);
    } else {
        for (uint64_t skipped = s->next; skipped < number; skipped++)
            s->seen[skipped % WINDOW / 64] &= ~(1ull << skipped % 64);
    }
    *word |= bit;
    if (number >= s->next)
        s->next = number + 1;
    return true;
}

static void check_offset(struct subscription *s, const char *line, const char *mark)
{
    uint64_t offset = 0;
    const char *p = memmem(line, (size_t)(mark - line), "\"offset\":", 9);
    if (p)
        p += 9, read_number(&p, mark, ',', &offset);
    if (!offset || (s->offset && offset != s->offset + 1))
        count.offset_breaks++;
    s->offset = offset;
}

/* The subscription of a client to a channel; NULL if it has none. */
static struct subscription *subscription_of(struct client *client, uint64_t channel)
{
    if (client->last && channel == (uint64_t)client->channel)
        return client->last;
    if (client->publishes || channel >= (uint64_t)channels)
        return NULL;
    int64_t first = (int64_t)channel * each, place = (client->index - first) % subscribers;
    if (place < 0)
        place += subscribers;
    if (place >= each)
        return NULL;
    client->channel = (int)channel;
    return client->last = &subscriptions[first + place];
}

/* One publication; its mark was found. Returns what follows the mark. */
static const char *on_publication(struct client *client, const char *line, const char *mark, const char *stop)
{
    uint64_t channel, number, sent;
    const char *p = mark + 1;
    struct subscription *s;
    if (!read_number(&p, stop, '.', &channel) || !read_number(&p, stop, '.', &number)
        || !read_number(&p, stop, '~', &sent)) {
        count.malformed++;
        surprise(client, "malformed", line, (size_t)(stop - line));
    } else if (!(s = subscription_of(client, channel))) {
        count.misrouted++;
        surprise(client, "misrouted", line, (size_t)(stop - line));
    } else {
        if (dialect->positions)
            check_offset(s, line, mark);
        if (check_number(s, number)) {
            count.delivered++;
            if (measuring)
                record_latency(now - sent);
        }
    }
    return p;
}

/* -- becoming ready */

/* A client's subscriptions are those whose number is its own, modulo the number of subscribers. */
#define EACH_CHANNEL_OF(client)                                                                                       \
    (int64_t k = (client)->index; k < (int64_t)channels * each; k += subscribers)

static void become_ready(struct client *client)
{
    client->stage = READY;
    ready++, opening--;
    if (!client->publishes && !missed)
        for EACH_CHANNEL_OF (client)
            listeners[k / each]++;
}

static void subscribe(struct client *client)
{
    client->stage = SUBSCRIBING;
    if (!client->publishes && !missed) {
        for EACH_CHANNEL_OF (client) {
            add_text(&client->connection, dialect->subscribe, (int)(k / each), 2u);
            client->joining++;
        }
        flush(&client->connection);
    }
    if (!client->joining)
        become_ready(client);
}

static void greet(struct client *client)
{
    int number = client->publishes ? subscribers + client->index : client->index;
    client->stage = GREETING;
    add_text(&client->connection, dialect->greeting, number, 1u);
    flush(&client->connection);
}

static void on_open(struct connection *c)
{
    struct client *client = (struct client *)c;
    if (!dialect->greeting)
        subscribe(client);
    else if (!dialect->listens_first)
        greet(client);
}

/* The answer to a subscribe that recovers: all that was missed, or it is lost. */
static void on_recovered(struct client *client, const char *line, const char *stop)
{
    client->stage = READY;
    ready++;
    record_latency(now - recovery_start);
    if (!memmem(line, (size_t)(stop - line), "\"recovered\":true", 16))
        surprise(client, "not recovered", line, (size_t)(stop - line));
    const char *p = memmem(line, (size_t)(stop - line), "\"publications\":", 15);
    for (const char *mark; p && (mark = memchr(p, '~', (size_t)(stop - p)));)
        p = on_publication(client, p, mark, stop);
}

static void on_acknowledged(const char *line, const char *stop)
{
    uint64_t id;
    count.acknowledged++;
    if (!answers_count)
        return;
    const char *p = line + 6; /* {"id": */
    if (!read_number(&p, stop, ',', &id) || !sent_at[id % IDS]) {
        count.duplicated++;
        return;
    }
    if (measuring)
        record_latency(now - sent_at[id % IDS]);
    sent_at[id % IDS] = 0;
}

static void on_reply(struct client *client, const char *line, size_t length)
{
    if (memmem(line, length, dialect->mistake, strlen(dialect->mistake))) {
        count.errors++;
        surprise(client, "refused", line, length);
        if (client->stage != READY)
            end(&client->connection, "refused");
    } else if (client->stage == LISTENING) {
        greet(client);
    } else if (client->stage == GREETING) {
        subscribe(client);
    } else if (client->stage == SUBSCRIBING) {
        if (!--client->joining)
            become_ready(client);
    } else if (client->stage == RECOVERING) {
        on_recovered(client, line, line + length);
    } else {
        on_acknowledged(line, line + length);
    }
}

/* One JSON object from the server: a push, a ping, or the reply to our last command. */
static void on_line(struct connection *c, const char *line, size_t length)
{
    struct client *client = (struct client *)c;
    size_t push = strlen(dialect->push);
    if (length > push && !memcmp(line, dialect->push, push)) {
        const char *mark = memchr(line, '~', length);
        if (mark)
            on_publication(client, line, mark, line + length);
        else
            count.other++;
    } else if (length == strlen(dialect->ping) && !memcmp(line, dialect->ping, length)) {
        add_text(c, dialect->pong, 0, 0u);
        flush(c);
    } else {
        on_reply(client, line, length);
    }
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
    int channel = (int)(turn % (uint64_t)channels);
    unsigned id = 3 + (unsigned)(turn++ % IDS);
    struct connection *c = &clients[subscribers + channel % publishers].connection;
    now = clock_ns();
    int length = sprintf(text, dialect->publish, channel, id);
    int mark = sprintf(text + length, "~%d.%llu.%llu~", channel, (unsigned long long)numbers[channel]++,
                       (unsigned long long)now);
    if (mark < text_size)
        memset(text + length + mark, 'x', (size_t)(text_size - mark));
    length += mark < text_size ? text_size : mark;
    length += sprintf(text + length, "%s", dialect->publish_end);
    if (c->state != CLOSED)
        add_frame(c, TEXT, text, (size_t)length);
    sent_at[id % IDS] = now;
    count.published++;
    count.expected += listeners[channel];
}

/* A closed loop: what is under way is counted in answers, or in deliveries: then a message is done when its last
 * subscriber has it. */
static bool has_room(void)
{
    if (answers_count)
        return count.published - count.acknowledged < (uint64_t)in_flight;
    return count.expected - count.delivered <= (uint64_t)(in_flight - 1) * (uint64_t)each;
}

/* Publish what is due; returns when to look again. */
static uint64_t publish_due(uint64_t start)
{
    static uint64_t done_before, give_up;
    if (!in_flight) {
        uint64_t due = (uint64_t)((double)(now - start) / 1e9 * rate) + 1;
        while (count.published < due)
            publish();
        return start + (uint64_t)((double)due / rate * 1e9);
    }
    while (has_room())
        publish();
    uint64_t done = count.delivered + count.acknowledged;
    if (done != done_before || !give_up)
        give_up = now + (uint64_t)(patience * 1e9);
    done_before = done;
    stalled = now > give_up;
    return give_up;
}

static void flush_publishers(void)
{
    for (int i = subscribers; i < subscribers + publishers; i++)
        if (clients[i].connection.state != CLOSED && !clients[i].connection.wants_write)
            flush(&clients[i].connection);
}

/* -- the run */

static struct {
    double seconds;
    uint64_t published, delivered, acknowledged;
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
            open_connection(&clients[next++].connection, port, from);
        work_until(deadline);
        if (count.disconnects || now >= deadline)
            fail("only %d of %d connections became ready", ready, total);
    }
    return (double)(now - start) / 1e9;
}

static bool all_done(void)
{
    return count.delivered >= count.expected && (!answers_count || count.acknowledged >= count.published);
}

/* Until all is here, or nothing comes any more. */
static void wait_for_the_rest(void)
{
    uint64_t last = after(DRAIN), deadline = after(patience), delivered = count.delivered;
    while (!all_done() && now < deadline && now < last) {
        work_until(deadline);
        if (count.delivered != delivered)
            deadline = after(patience);
        delivered = count.delivered;
    }
    for (deadline = after(all_done() ? LINGER : 0); now < deadline;)
        work_until(deadline); /* a duplicate may still come */
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
            window.acknowledged = count.acknowledged;
            finish = after(seconds);
            begin = now;
        }
    }
    window.seconds = (double)(now - begin) / 1e9;
    window.published = count.published - window.published;
    window.delivered = count.delivered - window.delivered;
    window.acknowledged = count.acknowledged - window.acknowledged;
    measure(STOPPED);
    wait_for_the_rest();
}

/* Everybody comes back at once, and wants what it missed. */
static void recover(void)
{
    static const char command[] = "{\"id\":2,\"subscribe\":{\"channel\":\"c%d\",\"recover\":true,\"epoch\":\"%s\","
                                  "\"offset\":0}}";
    char text[200];
    measure(STARTED);
    uint64_t deadline = after(CONNECT_TIMEOUT);
    recovery_start = now;
    for (int i = 0; i < subscribers; i++) {
        int length = snprintf(text, sizeof text, command, clients[i].index / each, epoch);
        clients[i].stage = RECOVERING;
        add_frame(&clients[i].connection, TEXT, text, (size_t)length);
        flush(&clients[i].connection);
    }
    count.expected = (uint64_t)missed * (uint64_t)subscribers;
    for (ready -= subscribers; ready < subscribers + publishers && now < deadline && !count.disconnects;)
        work_until(deadline);
    window.seconds = (double)(now - recovery_start) / 1e9;
    window.delivered = count.delivered;
    measure(STOPPED);
}

static void report_run(void)
{
    printf(",\"seconds\":%.3f,\"published_in_window\":%llu,\"delivered_in_window\":%llu", window.seconds,
           (unsigned long long)window.published, (unsigned long long)window.delivered);
    printf(",\"publishes_per_s\":%.1f,\"deliveries_per_s\":%.1f,\"acknowledged_per_s\":%.1f",
           (double)window.published / window.seconds, (double)window.delivered / window.seconds,
           (double)window.acknowledged / window.seconds);
    printf(",\"generator_cpu_s\":%.3f", own_cpu[STOPPED] - own_cpu[STARTED]);
    if (latency_count)
        printf(",\"latency_ms\":{\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}", percentile_ms(.5),
               percentile_ms(.9), percentile_ms(.99), percentile_ms(.999), (double)latency_max / 1e6);
}

/* Print everything; returns the exit code. */
static int report(double connect_seconds)
{
#define SHOW(name, value) printf(",\"" name "\":%llu", (unsigned long long)(value))
    uint64_t lost = count.expected - count.delivered, unanswered = count.published - count.acknowledged;
    const char *mode = missed ? "recovery" : idle >= 0 ? "idle" : answers_count ? "ingest" : in_flight ? "closed" : "open";
    printf("{\"mode\":\"%s\",\"subscribers\":%d,\"publishers\":%d,\"channels\":%d,\"in_flight\":%d,\"rate\":%g", mode,
           subscribers, publishers, channels, in_flight, rate);
    if (answers_count)
        lost += unanswered;
    SHOW("published", count.published), SHOW("acknowledged", count.acknowledged), SHOW("expected", count.expected);
    SHOW("delivered", count.delivered), SHOW("lost", lost), SHOW("duplicated", count.duplicated);
    SHOW("out_of_order", count.out_of_order), SHOW("offset_breaks", count.offset_breaks);
    SHOW("misrouted", count.misrouted), SHOW("malformed", count.malformed), SHOW("errors", count.errors);
    SHOW("other_pushes", count.other), SHOW("disconnects", count.disconnects), SHOW("reads", reads);
    if (idle < 0)
        report_run();
    printf(",\"stalled\":%s,\"connect_s\":%.3f", stalled ? "true" : "false", connect_seconds);
    report_processes();
    printf("}\n");
    return lost || count.duplicated || count.out_of_order || count.offset_breaks || count.misrouted || count.malformed
           || count.errors || count.disconnects || stalled;
}

static void read_options(int argc, char **argv)
{
    for (int option; (option = getopt(argc, argv, "p:D:n:C:s:P:k:ar:i:R:d:b:w:f:")) != -1;) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'D': dialect = find_dialect(optarg); break;
        case 'n': subscribers = atoi(optarg); break;
        case 'C': channels = atoi(optarg); break;
        case 's': each = atoi(optarg); break;
        case 'P': publishers = atoi(optarg); break;
        case 'k': in_flight = atoi(optarg); break;
        case 'a': answers_count = true; break;
        case 'r': rate = atof(optarg); break;
        case 'i': idle = atof(optarg); break;
        case 'R': sscanf(optarg, "%63[^:]:%d", epoch, &missed); break;
        case 'd': seconds = atof(optarg); break;
        case 'b': text_size = atoi(optarg); break;
        case 'w': patience = atof(optarg); break;
        case 'f': from = optarg; break;
        default: fail("unknown option; the head of load.c lists them");
        }
    }
    while (optind < argc && process_count < MAX_PROCESSES)
        processes[process_count++] = atoi(argv[optind++]);
    if (port <= 0 || (in_flight > 0) + (rate > 0) + (idle >= 0) + (missed > 0) != 1)
        fail("needs -p PORT and one of -k, -r, -i, -R");
    if (!dialect)
        fail("-D takes a name of dialect.h");
    if ((answers_count && (!dialect->answers || !in_flight)) || (missed && !dialect->positions))
        fail("-a goes with -k, and like -R only with a dialect that has it");
    if (text_size < 0 || text_size > 3800 || seconds <= 0)
        fail("-b takes 0 to 3800 bytes, -d more than 0 seconds");
    path = dialect->path;
    if (idle >= 0 || missed)
        publishers = 0;
    if (answers_count)
        subscribers = each = 0;
    else if (!each)
        each = subscribers / channels;
    if (publishers > channels || publishers < 0 || channels < 1 || (!answers_count && (each < 1 || each > subscribers)))
        fail("needs channels >= publishers, and 1 to all subscribers for a channel");
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
    subscriptions = calloc((size_t)channels * (size_t)each + 1, sizeof *subscriptions);
    numbers = calloc((size_t)channels, sizeof *numbers);
    listeners = calloc((size_t)channels, sizeof *listeners);
    if (epoll < 0 || !clients || !subscriptions || !numbers || !listeners)
        fail("out of memory");
    for (int i = 0; i < total; i++) {
        clients[i].publishes = i >= subscribers;
        clients[i].index = clients[i].publishes ? i - subscribers : i;
        clients[i].stage = dialect->listens_first ? LISTENING : GREETING;
    }

    measure(BEFORE);
    double connect_seconds = connect_all();
    for (uint64_t deadline = after(idle >= 0 ? idle : SETTLE); now < deadline;)
        work_until(deadline);
    measure(CONNECTED);
    if (missed)
        recover();
    else if (idle < 0)
        run();
    return report(connect_seconds);
}
