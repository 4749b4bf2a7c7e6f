/* front_end [-s] [-e] [-t SECONDS] SOCKET TEST:DEPTH...
 *   -s  sleep until notified, as a guest does; without it the front end spins, so that the back end's own cost shows
 *   -e  without EVENT_IDX
 * Prints one JSON line a test. */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "front_end.h"

_Noreturn void die(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("front_end: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* The CPU time of a process's threads and of its descendants: a back end's worker may be a grandchild of the
 * process that owns the socket. What has already exited is not counted. */
static uint64_t tree_cpu_ns(pid_t process)
{
    char path[320];
    uint64_t total = 0;
    struct dirent *task;
    DIR *tasks;

    snprintf(path, sizeof path, "/proc/%d/task", process);
    tasks = opendir(path);
    while (tasks && (task = readdir(tasks))) {
        unsigned long long cpu;
        FILE *file;
        int child;

        if (task->d_name[0] == '.') /* `..` would be the process itself, counted a second time */
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", process, task->d_name);
        if ((file = fopen(path, "r"))) {
            total += fscanf(file, "%llu", &cpu) == 1 ? cpu : 0;
            fclose(file);
        }
        snprintf(path, sizeof path, "/proc/%d/task/%s/children", process, task->d_name);
        if ((file = fopen(path, "r"))) {
            while (fscanf(file, "%d", &child) == 1)
                total += tree_cpu_ns(child);
            fclose(file);
        }
    }
    if (tasks)
        closedir(tasks);
    return total;
}

uint64_t peer_cpu_ns(void) { return tree_cpu_ns(vhost_user_peer()); }

int main(int argc, char **argv)
{
    bool spin = true, event_idx = true;
    double seconds = 0.5;
    int option;

    while ((option = getopt(argc, argv, "set:")) != -1) {
        if (option == 's')
            spin = false;
        else if (option == 'e')
            event_idx = false;
        else if (option == 't')
            seconds = atof(optarg);
        else
            return 2;
    }
    if (argc - optind < 2)
        die("usage: front_end [-s] [-e] [-t SECONDS] SOCKET TEST:DEPTH...");
    vhost_user_connect(argv[optind]);
    driver_start(event_idx, spin);
    workloads_prepare();
    for (int i = optind + 1; i < argc; i++) {
        char *colon = strchr(argv[i], ':');
        unsigned depth = colon ? strtoul(colon + 1, NULL, 10) : 1;

        if (depth < 1 || depth > MAX_DEPTH)
            die("'%s': the depth is 1 to %d", argv[i], MAX_DEPTH);
        if (colon)
            *colon = '\0';
        workload_run(argv[i], depth, seconds);
    }
    driver_stop();
    return 0;
}
