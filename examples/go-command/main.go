// A program of WASI 0.1: counts lines, words and bytes of its input.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

func main() {
	lines, words, bytes := 0, 0, 0
	input := bufio.NewReader(os.Stdin)
	for {
		line, err := input.ReadString('\n')
		bytes += len(line)
		words += len(strings.Fields(line))
		if err != nil {
			break
		}
		lines++
	}
	fmt.Printf("%d lines, %d words, %d bytes\n", lines, words, bytes)
}
