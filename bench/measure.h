/* measure.h: latencies in a histogram, and what other processes use, for load.c. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

/* -- processes: the server's, and our own */

enum { MAX_PROCESSES = 16 };
enum moment { BEFORE, CONNECTED, STARTED, STOPPED, MOMENTS };

struct usage {
    double cpu; /* seconds */
    long rss;   /* KiB */
};

static int processes[MAX_PROCESSES], process_count;
static struct usage usage[MOMENTS][MAX_PROCESSES];
static double own_cpu[MOMENTS];

static double seconds_of(clockid_t clock)
{
    struct timespec time = {0};
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* CPU from the process's own clock: /proc/PID/stat counts in 10 ms. False where there is no such process. */
static bool read_usage(int pid, struct usage *use)
{
    char name[64];
    long pages = 0;
    clockid_t clock;
    snprintf(name, sizeof name, "/proc/%d/statm", pid);
    FILE *file = fopen(name, "r");
    if (!file)
        return false;
    bool read = fscanf(file, "%*d %ld", &pages) == 1;
    fclose(file);
    if (!read || clock_getcpuclockid(pid, &clock))
        return false;
    *use = (struct usage){seconds_of(clock), pages * (sysconf(_SC_PAGESIZE) / 1024)};
    return true;
}

static void measure(enum moment moment)
{
    own_cpu[moment] = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < process_count; i++)
        if (!read_usage(processes[i], &usage[moment][i]))
            fail("process %d cannot be read in /proc", processes[i]);
}

static void report_processes(void)
{
    printf(",\"processes\":[");
    for (int i = 0; i < process_count; i++)
        printf("%s{\"pid\":%d,\"cpu_s\":%.6f,\"connect_cpu_s\":%.6f,\"rss_kib_before\":%ld,\"rss_kib_connected\":%ld}",
               i ? "," : "", processes[i], usage[STOPPED][i].cpu - usage[STARTED][i].cpu,
               usage[CONNECTED][i].cpu - usage[BEFORE][i].cpu, usage[BEFORE][i].rss, usage[CONNECTED][i].rss);
    printf("]");
}
