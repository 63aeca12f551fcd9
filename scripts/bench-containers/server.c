/* A small web server for measurements: it answers every request with 200 and keeps connections, one thread for each. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";

/* Requests have no bodies, so each ends with an empty line. */
static void *serve(void *of) {
    int connection = (int)(intptr_t)of;
    char buffer[16384];
    size_t held = 0;
    for (;;) {
        ssize_t more = read(connection, buffer + held, sizeof buffer - 1 - held);
        if (more <= 0) break;
        held += (size_t)more;
        buffer[held] = 0;
        char *begin = buffer, *end;
        while ((end = strstr(begin, "\r\n\r\n"))) {
            if (write(connection, answer, sizeof answer - 1) != sizeof answer - 1) goto over;
            begin = end + 4;
        }
        held -= (size_t)(begin - buffer);
        memmove(buffer, begin, held);
        if (held == sizeof buffer - 1) break;
    }
over:
    close(connection);
    return NULL;
}

/* A first process that says nothing of the signal is not ended by it. */
static void quit(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    signal(SIGTERM, quit);
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(8000)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) return 1;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&small, 65536);
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        pthread_t thread;
        if (connection < 0) continue;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (pthread_create(&thread, &small, serve, (void *)(intptr_t)connection)) close(connection);
    }
}
