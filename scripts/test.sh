#!/usr/bin/env bash
# All tests, in two halves at once where there are two cores: half the time. With arguments: pytest with these.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
if [ $# -gt 0 ] || [ "$(nproc)" -lt 2 ]; then
    exec "$python" -m pytest "$@"
fi
first=(tests/firmware tests/hsm tests/policy)
others=()
for path in tests/*; do
    case " ${first[*]} tests/__pycache__ " in
        *" $path "*) ;;
        *) if [ -d "$path" ] || [[ $path == tests/test_*.py ]]; then others+=("$path"); fi ;;
    esac
done
told=$(mktemp)
trap 'kill "${other:-}" 2>/dev/null || true; rm -f "$told"' EXIT
echo "${others[*]}: at the same time, told afterwards"
"$python" -m pytest -o cache_dir=.pytest_cache/others "${others[@]}" >"$told" 2>&1 &
other=$!
failed=0
"$python" -m pytest "${first[@]}" || failed=$?
wait "$other" || failed=$?
other=
cat "$told"
exit "$failed"
