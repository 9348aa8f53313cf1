/*
 * dialect.h: what servers of different kinds want to hear, and how what they say begins, for load.c.
 *
 * In a format, %1$d is a number: of the client in a greeting, of the channel elsewhere; %2$u is the command's id.
 */
#include <stddef.h>
#include <string.h>

struct dialect {
    const char *name, *path;
    bool listens_first;         /* the greeting answers the server's first word */
    const char *greeting;       /* NULL: there is none, and no answer to it */
    const char *subscribe, *publish, *publish_end; /* the text goes between the last two */
    const char *push, *mistake; /* how a publication begins; what is in an error */
    const char *ping, *pong;
    bool answers, positions; /* publishes are answered, {"id":…; publications carry offsets */
};

/* An application of one's own, as tutorials write it: one JSON object a message, no answer to a publish. */
#define PLAIN                                                                                                          \
    .subscribe = "{\"subscribe\":\"c%1$d\"}", .publish = "{\"publish\":\"c%1$d\",\"text\":\"", .publish_end = "\"}",   \
    .push = "{\"channel\":", .mistake = "\"error\":", .ping = "{}", .pong = "{}"

static const struct dialect dialects[] = {
    {
        .name = "peyk", /* the Centrifugal client protocol, JSON */
        .path = "/connection/websocket",
        .greeting = "{\"id\":1,\"connect\":{\"data\":{\"user\":\"u%1$d\"}}}",
        .subscribe = "{\"id\":2,\"subscribe\":{\"channel\":\"c%1$d\"}}",
        .publish = "{\"id\":%2$u,\"publish\":{\"channel\":\"c%1$d\",\"data\":{\"text\":\"",
        .publish_end = "\"}}}",
        .push = "{\"push\":",
        .mistake = "\"error\":",
        .ping = "{}",
        .pong = "{}",
        .answers = true,
        .positions = true,
    },
    {.name = "plain", .path = "/ws", PLAIN},
    {
        .name = "socketio", /* Engine.IO 4, without its polling; events join, publish and message are ours */
        .path = "/socket.io/?EIO=4&transport=websocket",
        .listens_first = true,
        .greeting = "40",
        .subscribe = "420[\"join\",\"c%1$d\"]",
        .publish = "42[\"publish\",\"c%1$d\",\"",
        .publish_end = "\"]",
        .push = "42[\"message\",",
        .mistake = "\"error\":",
        .ping = "2",
        .pong = "3",
    },
};

static const struct dialect *find_dialect(const char *name)
{
    for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++)
        if (!strcmp(dialects[i].name, name))
            return &dialects[i];
    return NULL;
}
