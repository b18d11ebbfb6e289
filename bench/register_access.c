/* A row of register accesses over vfio-user, and the floor to compare with.
 *
 *   register_access server PATH
 *       The floor: answers each message with two blocking recv(2) and at most one send(2). One
 *       client after the other, without end.
 *   register_access sleepless PATH
 *       The same, but never sleeps while it has a client: what no server can undercut.
 *   register_access client PATH REGION OFFSET READS PAUSE WRITES
 *       READS reads of 4 bytes, one at a time, each PAUSE nanoseconds of work after the one before;
 *       then WRITES posted writes of 4 bytes in a row and one read behind them. Prints nanoseconds:
 *       read_min read_median read_p99 write_mean.
 *
 * Source of the layouts: vfio-user protocol specification, "Header", VERSION, REGION_READ, REGION_WRITE.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 1, REGION_READ = 9, REGION_WRITE = 10, REPLY = 1, POSTED = 0x10 };

struct header {
    uint16_t id, command;
    uint32_t size, flags, error;
};

struct access {
    struct header header;
    uint64_t offset;
    uint32_t region, count, data;
} __attribute__((packed));

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int how = MSG_WAITALL;

/* 0 at the end of the stream. */
static int get(int fd, void *to, size_t size)
{
    ssize_t got;
    do
        got = recv(fd, to, size, how);
    while (got < 0 && errno == EAGAIN && how == MSG_DONTWAIT);
    if (got != 0 && got != (ssize_t)size)
        die("recv");
    return got != 0;
}

static void put(int fd, const void *from, size_t size)
{
    if (send(fd, from, size, MSG_NOSIGNAL) != (ssize_t)size)
        die("send");
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void serve_client(int fd)
{
    static uint32_t registers[1 << 14];
    struct access message;
    while (get(fd, &message.header, sizeof message.header)) {
        uint32_t size = message.header.size - sizeof message.header;
        if (size > sizeof message - sizeof message.header || !get(fd, &message.offset, size))
            return;
        if (message.header.command == VERSION) {
            unsigned char reply[16 + 4 + 3] = {0};
            struct header head = {message.header.id, VERSION, sizeof reply, REPLY, 0};
            memcpy(reply, &head, sizeof head);
            memcpy(reply + 20, "{}", 3);
            put(fd, reply, sizeof reply);
            continue;
        }
        if (message.header.command == REGION_WRITE)
            registers[message.offset / 4 % (1 << 14)] = message.data;
        if (message.header.flags & POSTED)
            continue;
        message.data = registers[message.offset / 4 % (1 << 14)];
        message.header.flags = REPLY;
        message.header.size = sizeof message;
        put(fd, &message, sizeof message);
    }
}

static void serve(struct sockaddr_un *address)
{
    int listening = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(address->sun_path);
    if (bind(listening, (struct sockaddr *)address, sizeof *address) || listen(listening, 1))
        die(address->sun_path);
    for (;;) {
        int fd = accept(listening, NULL, NULL);
        if (fd < 0)
            die("accept");
        serve_client(fd);
        close(fd);
    }
}

static uint32_t read_register(int fd, uint32_t region, uint64_t offset)
{
    struct access message = {{1, REGION_READ, 32, 0, 0}, offset, region, 4, 0};
    put(fd, &message, 32);
    if (!get(fd, &message, sizeof message)) {
        fprintf(stderr, "the server has gone\n");
        exit(1);
    }
    if (message.header.flags != REPLY) {
        fprintf(stderr, "read refused: errno %u\n", message.header.error);
        exit(1);
    }
    return message.data;
}

static int drive(struct sockaddr_un *address, char **arguments)
{
    uint32_t region = strtoul(arguments[0], NULL, 0);
    uint64_t offset = strtoull(arguments[1], NULL, 0);
    long reads = atol(arguments[2]), pause = atol(arguments[3]), writes = atol(arguments[4]);
    int64_t *took = calloc(reads, sizeof *took);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)address, sizeof *address))
        die(address->sun_path);
    struct {
        struct header header;
        uint16_t major, minor;
        char text[3];
    } __attribute__((packed)) version = {{0, VERSION, 23, 0, 0}, 0, 0, "{}"};
    unsigned char reply[4096];
    put(fd, &version, 23);
    struct header head;
    get(fd, &head, sizeof head);
    get(fd, reply, head.size - sizeof head);
    for (long i = 0; i < reads / 10; i++)
        read_register(fd, region, 0);
    for (long i = 0; i < reads; i++) {
        int64_t start = now();
        read_register(fd, region, 0);
        int64_t end = now();
        took[i] = end - start;
        while (now() - end < pause)
            ;
    }
    struct access write = {{2, REGION_WRITE, sizeof write, POSTED, 0}, offset, region, 4, 0};
    int64_t start = now();
    for (long i = 0; i < writes; i++) {
        write.data = i;
        put(fd, &write, sizeof write);
    }
    read_register(fd, region, 0);
    int64_t all = now() - start;
    qsort(took, reads, sizeof *took, compare);
    printf("%lld %lld %lld %lld\n", (long long)took[0], (long long)took[reads / 2],
           (long long)took[reads * 99 / 100], (long long)(all / writes));
    return 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc < 3 || strlen(argv[2]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: register_access server|sleepless|client PATH [REGION OFFSET READS PAUSE WRITES]\n");
        return 2;
    }
    strcpy(address.sun_path, argv[2]);
    if (!strcmp(argv[1], "sleepless"))
        how = MSG_DONTWAIT;
    if ((how == MSG_DONTWAIT || !strcmp(argv[1], "server")) && argc == 3)
        serve(&address);
    if (!strcmp(argv[1], "client") && argc == 8)
        return drive(&address, argv + 3);
    return 2;
}
