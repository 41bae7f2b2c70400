/* Makes children at a steady rate and ends them at once. usage: forks SECONDS RATE [orphans]
 * With `orphans`, every second one is a child of our parent (CLONE_PARENT): what a daemon leaves, for the supervisor to
 * collect. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    double seconds = atof(argv[1]), rate = atof(argv[2]), start = now(), elapsed;
    long made = 0;
    while ((elapsed = now() - start) < seconds) {
        if ((double)made > elapsed * rate) {
            usleep(200);
            continue;
        }
        if (argc > 3 && made % 2) {
            if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0) _exit(0);
        } else {
            int pid = vfork();
            if (pid == 0) _exit(0);
            waitpid(pid, NULL, 0);
        }
        made++;
    }
    printf("%ld forks\n", made);
    fflush(stdout);
    for (;;) pause();
}
