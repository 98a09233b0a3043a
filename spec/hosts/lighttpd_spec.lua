--- examples/lighttpd, by curl and wrk: one state file for all workers, graceful restart, kill -9, checkpoints by a process beside.

local command_line = require "spec.support.command_line"
local host = require "spec.support.host"
local host_load = require "spec.support.host_load"
local ReplicationState = require "tidemark.replication_state"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local uv = require "luv"

local EXAMPLE = "examples/lighttpd"
local NO_MARKS = '{"0":0,"1":0,"2":0,"3":0}\n'
local WORKERS = 4

describe("lighttpd", function()
  local reason = host.missing("lighttpd", "curl", "setsid")
  if not reason and not (shell.exists "/usr/lib/lighttpd/mod_magnet.so" or shell.run "ls /usr/lib*/*/lighttpd/mod_magnet.so") then
    reason = "lighttpd's mod_magnet is not installed (make host-deps)"
  end
  if reason then
    pending(reason)
    return
  end

  local directory, path, server, port

  -- Starts it in `where`. lighttpd sends signals to its whole process group, so it gets one of its own.
  local function start(where, state_path, words)
    port = host.free_ports(1)
    words = words or host.environment("5.4", where or EXAMPLE)
    for _, word in ipairs { "TIDEMARK_STATE=" .. (state_path or path), "PORT=" .. port, "PID_FILE=" .. directory .. "/pid",
      "setsid", host.program "lighttpd", "-D", "-f",
      "lighttpd.conf" } do
      words[#words + 1] = word
    end
    server = host.start(words, { port })
  end

  local function workers()
    local pids
    command_line.wait_until("there are no four workers", function()
      pids = host.children(server.pid)
      return #pids == WORKERS
    end)
    return pids
  end

  -- No longer a process, or one that its parent has not yet been told of.
  local function has_ended(pid)
    return not (command_line.read(("/proc/%d/stat"):format(pid)) or "x) Z"):match "%) [^ZX]"
  end

  local function wait_for_end(pids)
    command_line.wait_until("workers stay", function()
      for _, pid in ipairs(pids) do
        if not has_ended(pid) then
          return false
        end
      end
      return true
    end)
  end

  local function stop()
    local pids = host.children(server.pid)
    assert.same({ true, "exit", 0 }, { host.stop(server, "sigterm") })
    wait_for_end(pids)
    assert(not server.errors:find "lua:", server.errors)
  end

  local function ask(query, ...)
    local status, body, head = host.ask(port, query, ...)
    return status, body, head
  end

  local function advance(query)
    local status, body = ask("/advance" .. query, "--data", "")
    return status, body
  end

  local function marks()
    local status, body = ask "/marks"
    assert.equal(200, status)
    return body
  end

  -- Asks until each of the workers has served a request, so has the state open: who takes a connection is the kernel's choice. The
  -- descriptors that each has on the state.
  local function open_in_each(pids)
    local opened = {}
    command_line.wait_until("not every worker has answered", function()
      marks()
      for _, pid in ipairs(pids) do
        opened[pid] = host_load.descriptors(pid, path)
        if opened[pid] == 0 then
          return false
        end
      end
      return true
    end)
    return opened
  end

  before_each(function()
    directory = sandbox.tempdir()
    path = directory .. "/marks"
    server = nil
  end)

  after_each(function()
    if server and not server.exit_code then
      local pids = host.children(server.pid)
      host.stop(server, "sigterm")
      wait_for_end(pids)
    end
    sandbox.cleanup()
  end)

  it("advances marks and tells them as a checkpoint", function()
    start()
    assert.equal(NO_MARKS, marks())
    assert.same({ 200, '{"shard":2,"seqno":42,"moved":true,"mark":42}\n' }, { advance "?shard=2&seqno=42" })
    assert.same({ 200, '{"shard":2,"seqno":41,"moved":false,"mark":42}\n' }, { advance "?seqno=41&shard=2" })
    assert.equal(200, (advance "?shard=3&seqno=9223372036854775807"))
    local status, body, head = ask "/marks"
    assert.same({ 200, '{"0":0,"1":0,"2":42,"3":9223372036854775807}\n' }, { status, body })
    assert.truthy(head:find("Content-Type: application/json\r\n", 1, true), head)
    stop()
  end)

  it("refuses what is no shard and seqno, and changes nothing", function()
    start()
    for _, query in ipairs { "", "?", "?0:1", "?shard=0", "?seqno=1", "?shard=&seqno=1", "?shard=0&seqno=", "?shard=-1&seqno=1",
      "?shard=65536&seqno=1", "?shard=0&seqno=-1", "?shard=0&seqno=1.0", "?shard=0&seqno=1e3", "?shard=0x0&seqno=1",
      "?shard=0&seqno=9223372036854775808" } do
      assert.same({ 400, "expected shard=0..65535&seqno=0..2^63-1\n" }, { advance(query) })
    end
    assert.same({ 404, "shard 9 is not tracked\n" }, { advance "?shard=9&seqno=1" })
    assert.equal(404, (ask "/advance?shard=0&seqno=1"))
    assert.equal(404, (ask "/"))
    assert.equal(NO_MARKS, marks())
    stop()
  end)

  it("tells Prometheus the marks", function()
    start()
    assert.equal(200, (advance "?shard=1&seqno=9223372036854775807"))
    local status, body, head = ask "/metrics"
    assert.equal(200, status)
    assert.truthy(head:find("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n", 1, true), head)
    assert.truthy(body:find "^# HELP tidemark_applied_seqno [^\n]+\n# TYPE tidemark_applied_seqno gauge\ntidemark_applied_seqno")
    local found = {}
    for shard, value in body:gmatch '\ntidemark_applied_seqno{shard="(%d+)"} (%d+)%f[\n]' do
      found[#found + 1] = shard .. "=" .. value
    end
    assert.equal("0=0 1=9223372036854775807 2=0 3=0", table.concat(found, " "))
    stop()
  end)

  it("sees at once what another process advances", function()
    start()
    assert.equal(NO_MARKS, marks())
    local state = assert(ReplicationState.open(path, { 700 }))
    assert(state:advance(0, 5))
    assert(state:advance(700, 6))
    state:close()
    assert.equal('{"0":5,"1":0,"2":0,"3":0,"700":6}\n', marks())
    stop()
  end)

  it("tells why the state cannot be opened, and opens it once it can", function()
    start(nil, directory .. "/later/marks")
    local status, body = ask "/marks"
    assert.equal(503, status)
    assert.truthy(body:find("/later/marks", 1, true), body)
    assert.equal(503, (advance "?shard=0&seqno=1"))
    assert(shell.run(("mkdir '%s/later'"):format(directory)))
    assert.equal(NO_MARKS, marks())
    stop()
  end)

  it("opens the state once in each worker, also when the script changes", function()
    assert(shell.run(("cp %s/* '%s'"):format(EXAMPLE, directory)))
    start(directory)
    local pids = workers()
    local before = open_in_each(pids)
    local script = command_line.read(directory .. "/marks.lua")
    command_line.write(directory .. "/marks.lua.new", (script:gsub("try /marks", "changed: try /marks")))
    assert(os.rename(directory .. "/marks.lua.new", directory .. "/marks.lua"))
    command_line.wait_until("the script is not loaded anew", function()
      local _, body = ask "/"
      return body:find "^changed"
    end)
    for _ = 1, 40 do
      marks()
    end
    assert.same(before, open_in_each(pids))
    stop()
  end)

  it("gets checkpoints from a process beside it", function()
    start()
    assert.equal(200, (advance "?shard=1&seqno=5")) -- nobody makes a checkpoint of it yet
    assert.not_equal(5, host_load.durable_mark(path, 1))
    local words = sandbox.interpreter()
    words[#words + 1] = EXAMPLE .. "/checkpointer.lua"
    words[#words + 1] = path
    local checkpointer = sandbox.spawn(words)
    for _, seqno in ipairs { 5, 6 } do
      assert.equal(200, (advance("?shard=1&seqno=" .. seqno)))
      command_line.wait_until("no checkpoint", function()
        assert(not checkpointer.exit_code)
        return host_load.durable_mark(path, 1) == seqno
      end)
    end
    checkpointer:kill()
    assert.same({ false, "signal", 9 }, { checkpointer:wait() })
    stop()
  end)

  -- ---- load, restart, kill -9 ----

  local no_wrk = host.missing "wrk"
  local QUERY = "shard=%s&seqno=%s"

  local function start_load(quota)
    return host_load.start(("http://127.0.0.1:%d"):format(port), quota, 1, QUERY)
  end

  it("loses no mark and takes none back among 60,000 requests, over a graceful restart", function()
    if no_wrk then
      pending(no_wrk)
      return
    end
    local last = 15000
    start()
    local old = workers()
    open_in_each(old)
    assert.equal(NO_MARKS, marks())
    local watcher = host_load.watch(path, last)
    local wrk = start_load(last)
    host_load.wait_for_mark(path, 0, last // 2)
    server:signal_with "sigusr1"
    wait_for_end(old)
    host_load.complete(wrk)
    local output = host_load.finish(wrk)
    assert(math.tointeger(tonumber(output:match "answered: (%d+)")) >= 4 * last, output)
    host_load.end_watch(watcher)
    assert.equal(('{"0":%d,"1":%d,"2":%d,"3":%d}\n'):format(last, last, last, last), marks())
    local new = workers()
    for i, pid in ipairs(new) do
      assert.not_equal(old[i], pid)
    end
    open_in_each(new)
    stop()
    start()
    assert.equal(('{"0":%d,"1":%d,"2":%d,"3":%d}\n'):format(last, last, last, last), marks())
    stop()
  end)

  it("has every acknowledged mark after kill -9 of one worker, and of all processes", function()
    if no_wrk then
      pending(no_wrk)
      return
    end
    start()
    assert.equal(NO_MARKS, marks())
    local wrk = start_load(1000000)
    host_load.wait_for_mark(path, 3, 1000)
    local killed = workers()[1]
    assert(uv.kill(killed, "sigkill"))
    command_line.wait_until("no other worker in its place", function()
      local pids = host.children(server.pid)
      return #pids == WORKERS and pids[1] ~= killed
    end)
    host_load.wait_for_mark(path, 3, 4000)
    local pids = workers()
    server:kill() -- its workers go on, and hold the port, as long as nobody ends them
    assert.same({ false, "signal", 9 }, { server:wait() })
    assert.equal(200, (ask "/marks"))
    for _, pid in ipairs(pids) do
      assert(uv.kill(pid, "sigkill"))
    end
    wait_for_end(pids)
    host_load.check_acknowledged(path, host_load.finish(wrk))
    local state = assert(ReplicationState.open(path, nil, { readonly = true }))
    local found = state:to_checkpoint_bytes()
    state:close()
    start()
    assert.equal(found .. "\n", marks())
    stop()
  end)

  -- ---- as Debian runs it ----

  it("runs as another user, with the modules where `make install` puts them", function()
    local obstacle = host.cannot_become "www-data"
    if obstacle then
      pending(obstacle)
      return
    end
    host.environment("5.4", EXAMPLE) -- builds
    local share, lib = directory .. "/share/lua/5.4", directory .. "/lib/lua/5.4"
    assert(shell.run(([[
      cp examples/lighttpd/* '%s' && mkdir -p '%s' '%s' '%s/var' && cp -r lua/tidemark '%s' && cp -r build/lua5.4/tidemark '%s' &&
      chmod 755 '%s' && chown www-data '%s/var' &&
      printf 'server.username = "www-data"\nserver.groupname = "www-data"\n' >> '%s/lighttpd.conf']]):format(
      directory, share, lib, directory, share, lib, directory, directory, directory)))
    path = directory .. "/var/marks"
    start(nil, nil, { "env", "--chdir=" .. directory, ("LUA_PATH_5_4=%s/?.lua;%s/?/init.lua"):format(share, share),
      ("LUA_CPATH_5_4=%s/?.so"):format(lib) })
    assert.equal(200, (advance "?shard=1&seqno=42"))
    local old = workers()
    server:signal_with "sigusr1"
    wait_for_end(old)
    assert.equal('{"0":0,"1":42,"2":0,"3":0}\n', marks())
    local ok, owner = shell.run(("stat -c '%%U %%a' '%s'*"):format(path))
    assert.same({ true, "www-data 600\nwww-data 600\n" }, { ok, owner })
    stop()
  end)
end)
