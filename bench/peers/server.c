/*
 * server: what the machine can do. A broadcaster on epoll, one thread, no Redis, nothing kept: the measure for ratios.
 *
 *     server PORT write       one write for each delivery
 *     server PORT coalesce    what is for one socket is joined, and written once a turn of the loop
 *
 * It speaks the dialect "plain" of bench/dialect.h with bench/load.c alone: the handshake's answer is the one to its key.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FILES = 1 << 17, MAX_CHANNELS = 1 << 14, READ_SIZE = 1 << 16, MAX_EVENTS = 1024, HEAD = 4 };

struct buffer {
    char *data;
    size_t length, capacity;
};
struct client {
    bool open, shaken, dirty, wants_write;
    struct buffer in, out;
};
struct channel {
    int *members, count, capacity;
};

static struct client clients[MAX_FILES]; /* by file number */
static struct channel channels[MAX_CHANNELS];
static int dirty[MAX_FILES], dirty_count;
static int epoll;
static bool coalesce;

static void append(struct buffer *b, const void *data, size_t length)
{
    if (b->length + length > b->capacity) {
        b->capacity = 2 * (b->length + length);
        b->data = realloc(b->data, b->capacity);
        if (!b->data)
            abort();
    }
    memcpy(b->data + b->length, data, length);
    b->length += length;
}

static void drop(int fd)
{
    struct client *client = &clients[fd];
    for (int c = 0; c < MAX_CHANNELS; c++)
        for (int i = 0; i < channels[c].count; i++)
            if (channels[c].members[i] == fd)
                channels[c].members[i--] = channels[c].members[--channels[c].count];
    free(client->in.data), free(client->out.data);
    memset(client, 0, sizeof *client);
    close(fd);
}

static void watch(int fd, bool write)
{
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.fd = fd};
    if (clients[fd].wants_write != write)
        epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
    clients[fd].wants_write = write;
}

/* Write what the socket takes; a socket that is gone is noticed when it is read. */
static void flush(int fd)
{
    struct buffer *out = &clients[fd].out;
    ssize_t n = send(fd, out->data, out->length, MSG_NOSIGNAL);
    if (n > 0 && (out->length -= (size_t)n))
        memmove(out->data, out->data + n, out->length);
    watch(fd, out->length > 0);
}

static void deliver(int fd, const char *frame, size_t length)
{
    struct client *client = &clients[fd];
    ssize_t n = 0;
    if (!coalesce && !client->out.length) {
        n = send(fd, frame, length, MSG_NOSIGNAL);
        if (n == (ssize_t)length)
            return;
    }
    append(&client->out, frame + (n > 0 ? n : 0), length - (size_t)(n > 0 ? n : 0));
    if (!coalesce)
        watch(fd, true);
    else if (!client->dirty) {
        client->dirty = true;
        dirty[dirty_count++] = fd;
    }
}

/* A text frame of two parts; `frame` has room. Returns its length. */
static size_t make_frame(char *frame, const char *first, const char *second, size_t second_length)
{
    size_t length = strlen(first) + second_length, at = 0;
    frame[at++] = (char)0x81;
    if (length < 126) {
        frame[at++] = (char)length;
    } else {
        frame[at++] = 126, frame[at++] = (char)(length >> 8), frame[at++] = (char)length;
    }
    memcpy(frame + at, first, strlen(first));
    memcpy(frame + at + strlen(first), second, second_length);
    return at + length;
}

/* {"subscribe":"c7"} or {"publish":"c7","text":"…"} */
static void on_message(int fd, const char *text, size_t length)
{
    static const char subscribe[] = "{\"subscribe\":", publish[] = "{\"publish\":";
    static char frame[READ_SIZE + 64];
    bool subscribes = !strncmp(text, subscribe, sizeof subscribe - 1);
    const char *rest = text + (subscribes ? sizeof subscribe : sizeof publish) - 1;
    int number = atoi(rest + 2);
    if (number < 0 || number >= MAX_CHANNELS)
        return;
    struct channel *channel = &channels[number];
    size_t rest_length = length - (size_t)(rest - text);
    if (subscribes) {
        if (channel->count == channel->capacity) {
            channel->capacity = 2 * channel->capacity + 8;
            channel->members = realloc(channel->members, (size_t)channel->capacity * sizeof *channel->members);
        }
        channel->members[channel->count++] = fd;
        deliver(fd, frame, make_frame(frame, "{\"subscribed\":", rest, rest_length));
        return;
    }
    size_t size = make_frame(frame, "{\"channel\":", rest, rest_length);
    for (int i = 0; i < channel->count; i++)
        deliver(channel->members[i], frame, size);
}

/* Take one frame from the beginning of `p`; returns its length, 0 if it is not all here, -1 to close. */
static ssize_t take_frame(int fd, char *p, size_t length)
{
    if (length < 2)
        return 0;
    size_t size = p[1] & 127, head = 2;
    if (size == 127)
        return -1; /* load.c sends no such frame */
    if (size == 126) {
        if (length < 4)
            return 0;
        size = (size_t)(uint8_t)p[2] << 8 | (uint8_t)p[3], head = 4;
    }
    if (length < head + HEAD + size)
        return 0;
    char *key = p + head, *text = key + HEAD;
    for (size_t i = 0; i < size; i++)
        text[i] ^= key[i & 3];
    if ((p[0] & 15) == 8)
        return -1;
    char kept = text[size];
    text[size] = 0;
    on_message(fd, text, size);
    text[size] = kept;
    return (ssize_t)(head + HEAD + size);
}

static bool shake_hands(int fd)
{
    static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                 "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    struct buffer *in = &clients[fd].in;
    if (in->length < 4 || memcmp(in->data + in->length - 4, "\r\n\r\n", 4))
        return false;
    in->length = 0;
    append(&clients[fd].out, answer, sizeof answer - 1);
    flush(fd);
    return true;
}

static void on_readable(int fd)
{
    static char input[READ_SIZE];
    struct client *client = &clients[fd];
    ssize_t n = recv(fd, input, sizeof input, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop(fd);
        return;
    }
    append(&client->in, input, (size_t)n);
    append(&client->in, "", 1), client->in.length--; /* room for an end of string */
    if (!client->shaken) {
        client->shaken = shake_hands(fd);
        return;
    }
    size_t at = 0;
    for (ssize_t taken; (taken = take_frame(fd, client->in.data + at, client->in.length - at)) != 0; at += (size_t)taken)
        if (taken < 0) {
            drop(fd);
            return;
        }
    client->in.length -= at;
    memmove(client->in.data, client->in.data + at, client->in.length);
}

static void welcome(int listener)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        if (fd >= MAX_FILES || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            close(fd);
        else
            clients[fd].open = true;
    }
}

int main(int argc, char **argv)
{
    if (argc != 3 || (strcmp(argv[2], "write") && strcmp(argv[2], "coalesce"))) {
        fputs("usage: server PORT write|coalesce\n", stderr);
        return 2;
    }
    coalesce = !strcmp(argv[2], "coalesce");
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1024) < 0) {
        perror("server");
        return 1;
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[MAX_EVENTS] = {{.events = EPOLLIN, .data.fd = listener}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, events);
    for (;;) {
        int n = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                welcome(listener);
            else if (events[i].events & EPOLLOUT && clients[fd].open)
                flush(fd);
            if (fd != listener && events[i].events & ~EPOLLOUT && clients[fd].open)
                on_readable(fd);
        }
        for (int i = 0; i < dirty_count; i++)
            if (clients[dirty[i]].open) {
                clients[dirty[i]].dirty = false;
                flush(dirty[i]);
            }
        dirty_count = 0;
    }
}
