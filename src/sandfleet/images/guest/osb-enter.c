/*
 * Enters an exec's cgroup and user, then becomes its program.
 *
 *     osb-enter DOOR FAILURE UID GID GROUPS PROGRAMS ARGV...
 *
 * DOOR and FAILURE are descriptors, GROUPS and PROGRAMS are lists with ':' between.
 * The agent could do this between fork and exec by itself, but forking a Python
 * process costs a translated guest more than the rest of a short command: this is
 * started by vfork. Why the program could not be run is written to FAILURE as the
 * agent's own fork would: "OSError:HEX-ERRNO:".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GROUPS_MAX = 1024 };

extern char **environ;

static void fail(int failure, const char *what)
{
    char report[64];
    int size = snprintf(report, sizeof report, "OSError:%x:%s", errno, what);
    if (write(failure, report, (size_t)size) < 0)
        _exit(254);
    _exit(255);
}

static int parse_groups(char *list, gid_t *groups)
{
    int count = 0;
    for (char *rest = list, *name; (name = strsep(&rest, ":")) != NULL && count < GROUPS_MAX;)
        if (*name != '\0')
            groups[count++] = (gid_t)strtoul(name, NULL, 10);
    return count;
}

int main(int argc, char **argv)
{
    static gid_t groups[GROUPS_MAX];
    if (argc < 8)
        return 2;
    int door = atoi(argv[1]), failure = atoi(argv[2]);
    uid_t uid = (uid_t)strtoul(argv[3], NULL, 10);
    gid_t gid = (gid_t)strtoul(argv[4], NULL, 10);

    if (fcntl(failure, F_SETFD, FD_CLOEXEC) != 0 || fcntl(door, F_SETFD, FD_CLOEXEC) != 0)
        return 2;
    if (write(door, "0", 1) != 1)
        fail(failure, "cgroup");
    if (setgroups((size_t)parse_groups(argv[5], groups), groups) != 0 || setresgid(gid, gid, gid) != 0 ||
        setresuid(uid, uid, uid) != 0)
        fail(failure, "user");

    int first = 0;
    for (char *rest = argv[6], *program; (program = strsep(&rest, ":")) != NULL;) {
        execve(program, argv + 7, environ);
        if (first == 0 || (errno != ENOENT && errno != ENOTDIR && (first == ENOENT || first == ENOTDIR)))
            first = errno;
    }
    errno = first;
    fail(failure, "");
}
