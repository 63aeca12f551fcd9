#!/bin/sh
# Asks the server that has started git whether a push is taken. Descriptor 9 leads to the server, 8 comes from it. If the server ends before it
# has answered, nothing more comes, and the push is refused.
if [ "$1" = check ]; then
	echo ready
	exit 0
fi
{
	printf '%s\n' "$GIT_OBJECT_DIRECTORY" "$GIT_ALTERNATE_OBJECT_DIRECTORIES"
	cat
	echo end
} >&9 || exit 1
exec 9>&-
while IFS= read -r line <&8; do
	case $line in
	=*) printf '%s\n' "${line#=}" >&2 ;;
	accept) exit 0 ;;
	refuse) exit 1 ;;
	esac
done
echo "the server ended before the push was through: nothing was changed, push again" >&2
exit 1
