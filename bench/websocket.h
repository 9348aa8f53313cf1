/*
 * websocket.h: a WebSocket client on non-blocking sockets that hands over lines, for load.c.
 *
 * Peyk's frames hold newline-joined JSON. Reads cut frames anywhere, and frames may cut a message into fragments with
 * control frames between them; `on_line` gets whole lines whatever happened, without a copy unless the line was cut.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_SIZE = 256 * 1024, /* bytes taken from a socket at once; small enough to stay in the CPU's cache */
    LINE_LIMIT = 1 << 20,   /* bytes of a line that was cut */
    HANDSHAKE_LIMIT = 16 * 1024,
};
enum opcode { CONTINUATION = 0, TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

struct buffer {
    char *data;
    size_t length, capacity;
};

struct connection {
    int fd;
    enum { CONNECTING, SHAKING, OPEN, CLOSED } state;
    bool wants_write, in_frame, final;
    uint8_t head[10], head_length; /* a frame's head, which may come in pieces */
    uint8_t opcode, control_length;
    char control[125];  /* payload of a control frame */
    uint64_t left;      /* payload bytes of the current frame still to come */
    struct buffer line; /* the beginning of a line that was cut */
    struct buffer out;  /* what the socket has not taken yet */
};

static int epoll;
static const char *path; /* of the request */
static uint64_t now;   /* nanoseconds; when the bytes in hand were read */
static uint64_t reads; /* reads that brought something */

/* What load.c does with it. A `why` is for people. */
static void on_open(struct connection *c);
static void on_line(struct connection *c, const char *line, size_t length);
static void on_end(struct connection *c, const char *why);

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(2);
}

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void end(struct connection *c, const char *why)
{
    if (c->state == CLOSED)
        return;
    c->state = CLOSED;
    close(c->fd);
    on_end(c, why);
}

/* -- out */

static void append(struct buffer *buffer, const void *data, size_t length)
{
    if (buffer->length + length > buffer->capacity) {
        buffer->capacity = 2 * (buffer->length + length);
        buffer->data = realloc(buffer->data, buffer->capacity);
        if (!buffer->data)
            fail("out of memory");
    }
    if (length)
        memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
}

static void watch(struct connection *c, bool write)
{
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    if (c->wants_write != write && epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
    c->wants_write = write;
}

/* Write what the socket takes; the rest goes when it has room. */
static void flush(struct connection *c)
{
    size_t sent = 0;
    while (sent < c->out.length) {
        ssize_t n = send(c->fd, c->out.data + sent, c->out.length - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno != EINTR) {
            end(c, strerror(errno));
            return;
        }
        sent += n > 0 ? (size_t)n : 0;
    }
    if (sent && (c->out.length -= sent))
        memmove(c->out.data, c->out.data + sent, c->out.length);
    watch(c, c->out.length > 0);
}

/* A client must mask what it sends; any key will do here. */
static void add_frame(struct connection *c, enum opcode opcode, const char *payload, size_t length)
{
    static const uint8_t key[4] = {0x37, 0xfa, 0x21, 0x3d};
    bool small = length < 126; /* others of ours are below 64 KiB */
    uint8_t head[8] = {(uint8_t)(0x80 | opcode), (uint8_t)(0x80 | (small ? length : 126)), (uint8_t)(length >> 8),
                       (uint8_t)length};
    size_t head_length = small ? 2 : 4;
    memcpy(head + head_length, key, 4);
    append(&c->out, head, head_length + 4);
    append(&c->out, payload, length);
    char *masked = c->out.data + c->out.length - length;
    for (size_t i = 0; i < length; i++)
        masked[i] ^= (char)key[i & 3];
}

/* Add a text frame; it leaves with the next flush. */
static void add_text(struct connection *c, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    add_frame(c, TEXT, text, (size_t)length);
}

/* -- in: a frame's head, its payload, the lines in it */

static void read_lines(struct connection *c, const char *p, size_t length, bool message_ends)
{
    for (const char *stop = p + length; c->state != CLOSED;) {
        const char *newline = memchr(p, '\n', (size_t)(stop - p));
        const char *line_end = newline ? newline : stop;
        bool whole = newline || message_ends;
        if (c->line.length || !whole)
            append(&c->line, p, (size_t)(line_end - p));
        if (c->line.length > LINE_LIMIT)
            end(c, "a line without an end");
        if (!whole)
            return;
        if (c->line.length)
            on_line(c, c->line.data, c->line.length);
        else if (line_end > p)
            on_line(c, p, (size_t)(line_end - p));
        c->line.length = 0;
        if (!newline)
            return;
        p = newline + 1;
    }
}

static void on_control(struct connection *c)
{
    if (c->opcode == PING) {
        add_frame(c, PONG, c->control, c->control_length);
        flush(c);
    } else if (c->opcode == CLOSE) {
        char why[160] = "close frame";
        if (c->control_length >= 2)
            snprintf(why, sizeof why, "close frame: %d %.*s", (uint8_t)c->control[0] << 8 | (uint8_t)c->control[1],
                     c->control_length - 2, c->control + 2);
        end(c, why);
    }
}

/* Take bytes of a frame's head; true when it is complete. */
static bool read_head(struct connection *c, const char **p, const char *stop)
{
    while (*p < stop) {
        c->head[c->head_length++] = (uint8_t)*(*p)++;
        int size = c->head[1] & 127, extra = size == 126 ? 2 : size == 127 ? 8 : 0;
        if (c->head_length < 2 || c->head_length < 2 + extra)
            continue;
        c->head_length = 0;
        c->left = extra ? 0 : (uint64_t)size;
        for (int i = 2; i < 2 + extra; i++)
            c->left = c->left << 8 | c->head[i];
        c->opcode = c->head[0] & 15;
        c->control_length = 0;
        bool control = c->opcode >= CLOSE;
        if (c->head[0] & 0x70 || c->head[1] & 0x80 || (!control && c->opcode > TEXT) || (control && c->left > 125))
            end(c, "not a frame that a server may send");
        if (!control)
            c->final = c->head[0] & 0x80;
        return true;
    }
    return false;
}

static void read_frames(struct connection *c, const char *p, const char *stop)
{
    while (p < stop) {
        if (!c->in_frame && !(c->in_frame = read_head(c, &p, stop)))
            return;
        if (c->state == CLOSED)
            return;
        size_t here = (size_t)(stop - p), taken = c->left < here ? (size_t)c->left : here;
        c->left -= taken;
        if (c->opcode >= CLOSE) {
            memcpy(c->control + c->control_length, p, taken);
            c->control_length += (uint8_t)taken;
        } else {
            read_lines(c, p, taken, c->final && !c->left);
        }
        p += taken;
        if (!c->left) {
            c->in_frame = false;
            if (c->opcode >= CLOSE)
                on_control(c);
        }
    }
}

/* -- a connection's life */

/* `from` is the address of this machine that it comes from; NULL: any. */
static void open_connection(struct connection *c, int port, const char *from)
{
    struct sockaddr_in source = {.sin_family = AF_INET};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("socket: %s (too few open files? raise ulimit -n)", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int)); /* connect chooses it */
    if (from && (inet_pton(AF_INET, from, &source.sin_addr) != 1
                 || bind(c->fd, (struct sockaddr *)&source, sizeof source) < 0))
        fail("cannot connect from %s", from);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect to port %d: %s", port, strerror(errno));
    char request[300];
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                          "Sec-WebSocket-Version: 13\r\n\r\n",
                          path, port);
    append(&c->out, request, (size_t)length);
    c->wants_write = true;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* The server's half of the handshake, collected in c->line. What follows it are frames already. */
static void read_handshake(struct connection *c, const char *p, const char *stop)
{
    static const char accept[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; /* RFC 6455's own example, like our key */
    size_t before = c->line.length;
    append(&c->line, p, (size_t)(stop - p));
    const char *head_end = memmem(c->line.data, c->line.length, "\r\n\r\n", 4);
    if (!head_end) {
        if (c->line.length > HANDSHAKE_LIMIT)
            end(c, "endless handshake");
        return;
    }
    size_t head_length = (size_t)(head_end - c->line.data) + 4;
    c->line.data[head_length - 1] = 0;
    c->line.length = 0;
    if (strncmp(c->line.data, "HTTP/1.1 101", 12) || !strstr(c->line.data, accept)) {
        end(c, c->line.data);
        return;
    }
    c->state = OPEN;
    on_open(c);
    read_frames(c, p + (head_length - before), stop);
}

static void on_event(struct connection *c, uint32_t events)
{
    static char input[READ_SIZE];
    if (c->state == CONNECTING) {
        int error = 0;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
        c->state = SHAKING;
        if (error)
            end(c, strerror(error));
    }
    if (events & EPOLLOUT && c->state != CLOSED)
        flush(c);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || c->state == CLOSED)
        return;
    ssize_t n = recv(c->fd, input, sizeof input, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        end(c, n ? strerror(errno) : "end of file");
        return;
    }
    now = clock_ns();
    reads++;
    if (c->state == SHAKING)
        read_handshake(c, input, input + n);
    else
        read_frames(c, input, input + n);
}

/* Handle what has come, waiting for something at most until `deadline`. */
static void work_until(uint64_t deadline)
{
    struct epoll_event events[64];
    uint64_t wait = deadline > now ? (deadline - now + 999999) / 1000000 : 0;
    int n = epoll_wait(epoll, events, 64, wait < 100 ? (int)wait : 100);
    now = clock_ns();
    for (int i = 0; i < n; i++)
        on_event(events[i].data.ptr, events[i].events);
}
