/* A program of WASI 0.1: prints its arguments, or copies its input to its output, and ends with the code in the
 * variable EXIT_CODE. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("argument %d: %s\n", i, argv[i]);
    if (argc == 1) {
        int octet;
        while ((octet = getchar()) != EOF)
            putchar(octet);
    }
    const char *code = getenv("EXIT_CODE");
    return code ? atoi(code) : 0;
}
