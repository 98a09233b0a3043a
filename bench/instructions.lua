--- Counts the instructions of hot calls under callgrind, which gives the same number in each run, and compares them with those kept
--- in bench/instructions.txt.
---
---     lua5.4 bench/instructions.lua [--update]
---
--- Exit code 1: a call takes more than 3% above what is kept. `--update` keeps what was counted. `make bench-instructions` builds
--- what it needs.
---
--- A call's count is the difference of two loops of unlike lengths, so that what is around the loop does not count. Lua seeds its
--- hashes with the time and with addresses, which depend on the kernel too, and names that collide cost a few instructions more:
--- so calls of Lua are counted under several times, and the fewest instructions are those without a collision. Which of its functions
--- for memory libc picks for the processor is fixed. Compilers and libraries are not: the file says for which it holds, and elsewhere
--- nothing is compared.

local KEPT = "bench/instructions.txt"
local MOST_ABOVE = 0.03

local build = os.getenv "TIDEMARK_BUILD" or "build"
local lua = os.getenv "TIDEMARK_LUA" or "lua5.4"

-- what: in the table; ask: the request of a worker (bench/workers), `%d` its count; per: what one operation does so many of
local LUA_CALLS = {
  { what = "empty C method, called like advance", ask = "empty %d" },
  { what = "state:advance, rising", ask = "advance %d" },
  { what = "state:advance, stale", ask = "stale %d" },
  { what = "state:applied_seqno", ask = "applied_seqno %d" },
  { what = "bound advance", ask = "bound_advance %d" },
  { what = "bound applied", ask = "bound_applied %d" },
}
local C_CALLS = {
  { what = "C read", ask = "read 16 1 %d" },
  { what = "C advance, rising", ask = "rising 16 1 %d" },
  { what = "C advance, stale", ask = "stale 16 1 %d" },
  { what = "C crc32c, a KiB", ask = "crc32c 1 1 %d" },
  { what = "C snapshot, a shard of 1024", ask = "snapshot 1024 1 %d", per = 1024 },
  { what = "C encode, a shard of 1024", ask = "encode 1024 1 %d", per = 1024 },
  { what = "C decode, a shard of 1024", ask = "decode 1024 1 %d", per = 1024 },
}
local COUNTS = { 128, 384 } -- whole turns of 16 shards
local SEEDS = 16 -- one call is free of collisions under every second to fourth; one collision costs less than MOST_ABOVE

local function read_command(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  assert(pipe:close(), command .. " failed")
  return text
end

-- Instructions of what ran before each dump, in the order of the dumps.
local function read_dumps(directory)
  local totals = {}
  for path in read_command(("ls %s/out.* | sort -V"):format(directory)):gmatch "[^\n]+" do
    for line in io.lines(path) do
      local total = line:match "^totals: (%d+)" or line:match "^summary: (%d+)"
      if total then
        totals[#totals + 1] = tonumber(total)
        break
      end
    end
  end
  return totals
end

-- Sets .instructions of each call, unless it has fewer.
local function count(calls, program, seed)
  local directory = read_command('mktemp -d "${TMPDIR:-/tmp}/tidemark-bench.XXXXXX"'):match "%S+"
  local requests = assert(io.open(directory .. "/requests", "w"))
  for _, call in ipairs(calls) do
    for _, times in ipairs(COUNTS) do
      requests:write(call.ask:format(times), "\n")
    end
  end
  requests:close()
  local version = lua:match "5%.%d":gsub("%.", "_")
  local environment = {
    ("LUA_PATH_%s='./?.lua;lua/?.lua;lua/?/init.lua'"):format(version),
    ("LUA_CPATH_%s='%s/%s/?.so;%s/bench/%s/?.so'"):format(version, build, lua, build, lua),
    ("LD_PRELOAD='%s/bench/%s/fixed_time.so'"):format(build, lua),
    "BENCH_TIME=" .. seed,
    "LD_BIND_NOW=1",
    "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM",
  }
  local output = read_command(
    ('env -i PATH="$PATH" %s setarch -R valgrind -q --tool=callgrind --callgrind-out-file=%s/out '):format(
      table.concat(environment, " "),
      directory
    ) .. ("--dump-before=bench_mark %s < %s/requests"):format(program, directory)
  )
  local totals = read_dumps(directory)
  os.execute(("rm -r '%s'"):format(directory))
  -- two dumps a request: what came before it, and the request
  assert(#totals == 2 * #COUNTS * #calls, ("%d dumps, output: %s"):format(#totals, output))
  for i, call in ipairs(calls) do
    local short, long = totals[4 * i - 2], totals[4 * i]
    local instructions = (long - short) / (COUNTS[2] - COUNTS[1]) / (call.per or 1)
    call.instructions = math.min(call.instructions or math.huge, instructions)
  end
end

-- What the counts hold for.
local function conditions()
  local parts = {}
  for _, command in ipairs { "uname -m", "cc -dumpfullversion", lua .. " -v", "getconf GNU_LIBC_VERSION", "valgrind --version" } do
    parts[#parts + 1] = read_command(command):match "^[^\n]*":gsub(" *Copyright.*", "")
  end
  parts[2] = "cc " .. parts[2]
  return table.concat(parts, ", ")
end

local function read_kept()
  local file = io.open(KEPT)
  if not file then
    return nil, {}
  end
  local kept_for, kept = nil, {}
  for line in file:lines() do
    kept_for = kept_for or line:match "^# for (.*)"
    local instructions, what = line:match "^ *([%d.]+)  (.*)"
    if what then
      kept[what] = tonumber(instructions)
    end
  end
  file:close()
  return kept_for, kept
end

local function write_kept(calls, now)
  local file = assert(io.open(KEPT, "w"))
  file:write("# Instructions of one call under callgrind, its turn of the loop included; `make bench-instructions UPDATE=1` writes this.\n")
  file:write("# for ", now, "\n")
  for _, call in ipairs(calls) do
    file:write(("%9.2f  %s\n"):format(call.instructions, call.what))
  end
  file:close()
end

for seed = 1, SEEDS do
  count(LUA_CALLS, lua .. " bench/workers/calls.lua", 1700000000 + seed)
end
count(C_CALLS, build .. "/bench/marks", 1700000000)
local calls = table.move(C_CALLS, 1, #C_CALLS, #LUA_CALLS + 1, LUA_CALLS)
local now = conditions()
if arg[1] == "--update" then
  write_kept(calls, now)
end
local kept_for, kept = read_kept()
local failed = false
print(("instructions of one call, against %s%s"):format(KEPT, arg[1] == "--update" and ", which was written" or ""))
for _, call in ipairs(calls) do
  local before = kept_for == now and kept[call.what]
  local change = before and (call.instructions / before - 1) * 100
  local is_above = before and change > MOST_ABOVE * 100
  failed = failed or is_above or (kept_for == now and not before)
  local verdict = before and ("%+.1f%%%s"):format(math.floor(change * 10 + 0.5) / 10 + 0.0, is_above and "  ABOVE" or "") or "not compared"
  print(("%9.2f  %-40s %s"):format(call.instructions, call.what, verdict))
end
print(("%9.2f  state:advance / empty C method, at most 1.55"):format(calls[2].instructions / calls[1].instructions))
if kept_for ~= now then
  print(("not compared: %s holds for %s; here is %s"):format(KEPT, kept_for or "nothing", now))
end
if failed then
  print(("More instructions than %s keeps, or a call that it does not know."):format(KEPT))
  print "If that is meant: make bench-instructions UPDATE=1"
  os.exit(1)
end
