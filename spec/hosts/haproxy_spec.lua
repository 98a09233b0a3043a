--- examples/haproxy, by curl and wrk: one state file for all threads and workers, routing, reload, kill -9.

local command_line = require "spec.support.command_line"
local host = require "spec.support.host"
local host_load = require "spec.support.host_load"
local ReplicationState = require "tidemark.replication_state"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local uv = require "luv"

local EXAMPLE = "examples/haproxy"
local NO_MARKS = '{"0":0,"1":0,"2":0,"3":0}\n'

describe("HAProxy", function()
  local reason = host.missing("haproxy", "curl")
  if not reason and not shell.run "pkg-config --exists lua5.3" then
    reason = "no headers of Lua 5.3 (make host-deps)"
  end
  if reason then
    pending(reason)
    return
  end

  local environment, path, server
  local port, admin = host.free_ports(2)

  local function start(configuration, state_path)
    local words = { table.unpack(environment) }
    words[#words + 1] = "TIDEMARK_STATE=" .. (state_path or path)
    words[#words + 1] = "PORT=" .. port
    words[#words + 1] = "ADMIN_PORT=" .. admin
    words[#words + 1] = host.program "haproxy"
    words[#words + 1] = "-f"
    words[#words + 1] = configuration or "haproxy.cfg"
    server = host.start(words, { port, admin })
    -- the master starts itself anew once it has a worker, and until then SIGTERM and SIGUSR2 are its death
    command_line.wait_until("the master catches no SIGUSR2", function()
      local caught = command_line.read(("/proc/%d/status"):format(server.pid)):match "\nSigCgt:%s*(%x+)"
      return tonumber(caught, 16) & 1 << 11 ~= 0
    end)
  end

  -- Ends it; it must not have complained.
  local function stop()
    assert.same({ true, "exit", 0 }, { host.stop(server, "sigterm") })
    local complaints = server.errors:gsub("%[ALERT%][^\n]+Current worker %(%d+%) exited with code 143[^\n]*", "")
    assert(not complaints:lower():find("[alert]", 1, true), server.errors)
  end

  local function advance(token)
    local status, body = host.ask(admin, "/advance?" .. token, "--request", "POST")
    return status, body
  end

  local function marks()
    local status, body = host.ask(admin, "/marks")
    assert.equal(200, status)
    return body
  end

  setup(function()
    environment = host.environment("5.3", EXAMPLE)
  end)

  before_each(function()
    path = sandbox.tempdir() .. "/marks"
    server = nil
  end)

  after_each(function()
    if server and not server.exit_code then
      host.stop(server, "sigterm")
    end
    sandbox.cleanup()
  end)

  -- ---- services ----

  it("advances marks and tells them as a checkpoint", function()
    start()
    assert.equal(NO_MARKS, marks())
    local status, body = advance "2:42"
    assert.equal(200, status)
    assert.truthy(body:find '^{"shard":2,"seqno":42,"moved":true,"mark":42,"thread":[1-4]}\n$', body)
    status, body = advance "2:41"
    assert.equal(200, status)
    assert.truthy(body:find('"moved":false,"mark":42', 1, true), body)
    assert.equal(200, (advance "3:9223372036854775807"))
    local told, text, head = host.ask(admin, "/marks")
    assert.same({ 200, '{"0":0,"1":0,"2":42,"3":9223372036854775807}\n' }, { told, text })
    assert.truthy(head:find("content-type: application/json\r\n", 1, true), head)
    stop()
  end)

  it("refuses what is no shard and seqno, and changes nothing", function()
    start()
    for _, token in ipairs { "", "0", "0:", ":1", "0:x", "0:-1", "-1:0", "0:1.0", "0:1e3", "0x1:1", "65536:1",
      "0:9223372036854775808", "0:1,1:1" } do
      assert.same({ 400, "expected shard:seqno\n" }, { advance(token) })
    end
    assert.same({ 404, "shard 9 is not tracked\n" }, { advance "9:1" })
    assert.equal(400, (host.ask(admin, "/advance", "--request", "POST")))
    assert.equal(404, (host.ask(admin, "/advance?0:1")))
    assert.equal(404, (host.ask(admin, "/")))
    assert.equal(NO_MARKS, marks())
    stop()
  end)

  it("tells Prometheus the marks", function()
    start()
    assert.equal(200, (advance "1:9223372036854775807"))
    assert.equal(200, (advance "3:7"))
    local status, body, head = host.ask(admin, "/metrics")
    assert.equal(200, status)
    assert.truthy(head:find("content-type: text/plain; version=0.0.4; charset=utf-8\r\n", 1, true), head)
    local help, kind, samples = body:match "^# HELP (tidemark_applied_seqno) [^\n]+\n# TYPE tidemark_applied_seqno (%l+)\n(.*)$"
    assert.same({ "tidemark_applied_seqno", "gauge" }, { help, kind })
    local found = {}
    for line in samples:gmatch "([^\n]*)\n" do
      local shard, value = line:match '^tidemark_applied_seqno{shard="(%d+)"} (%d+)$'
      assert(shard, line)
      found[#found + 1] = shard .. "=" .. value
    end
    assert.equal("0=0 1=9223372036854775807 2=0 3=7", table.concat(found, " "))
    assert.equal("\n", body:sub(-1))
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

  it("makes checkpoints by itself", function()
    start()
    assert.equal(200, (advance "1:5"))
    command_line.wait_until("no checkpoint", function()
      return host_load.durable_mark(path, 1) == 5
    end)
    stop()
  end)

  it("tells why the state cannot be opened, and reads from the leader meanwhile", function()
    start(nil, path .. "/no/directory")
    local status, body = host.ask(admin, "/marks")
    assert.equal(503, status)
    assert.truthy(body:find("/no/directory", 1, true), body)
    assert.equal(503, (advance "0:1"))
    local _, by = host.ask(port, "/")
    assert.equal("leader\n", by)
    assert.equal(400, (host.ask(port, "/", "--header", "X-Tidemark: x")))
  end)

  -- ---- routing ----

  describe("routes a read", function()
    local function route(...)
      local words = {}
      for _, value in ipairs { ... } do
        words[#words + 1] = "--header"
        words[#words + 1] = value == "" and "X-Tidemark;" or "X-Tidemark: " .. value
      end
      local status, body, head = host.ask(port, "/", table.unpack(words))
      assert.equal(status == 200 and body:gsub("\n", "") or nil, head:match "X%-Served%-By: (%l+)" or head:match "x%-served%-by: (%l+)")
      return status == 200 and body:gsub("\n", "") or status
    end

    it("to the follower only if it has reached the seqno", function()
      start()
      assert.equal("follower", route())
      assert.equal("leader", route "1:42")
      assert.equal(200, (advance "1:41"))
      assert.equal("leader", route "1:42")
      assert.equal(200, (advance "1:42"))
      assert.equal("follower", route "1:42")
      assert.equal("follower", route "1:41")
      assert.equal("leader", route "1:43")
      assert.equal("leader", route "0:42")
      assert.equal("leader", route "1:9223372036854775807")
      stop()
    end)

    it("to the follower only if it has all that several headers name", function()
      start()
      assert.equal(200, (advance "0:5"))
      assert.equal(200, (advance "1:6"))
      assert.equal("follower", route "0:5,1:6")
      assert.equal("follower", route("0:5 , 1:6", "2:0"))
      for position = 1, 3 do
        local tokens = { "0:5", "1:6", "0:4" }
        tokens[position] = "2:1"
        assert.equal("leader", route(table.concat(tokens, ", ")))
        assert.equal("leader", route(table.unpack(tokens)))
      end
      stop()
    end)

    it("to the leader for a shard that the follower does not have", function()
      start()
      assert.equal("leader", route "9:0")
      assert.equal("leader", route "65535:1")
      stop()
    end)

    it("nowhere with a malformed header", function()
      start()
      for _, value in ipairs { "", "x", "0", "0:", ":0", "0:-1", "-1:0", "0:0x1", "0:1.5", "65536:0", "0:0,", "0:0;1:0",
        "0:9223372036854775808", "0:99999999999999999999999999" } do
        assert.equal(400, route(value))
      end
      assert.equal(400, route("0:1", "x"))
      assert.equal(400, route("0:0", "x"))
      stop()
    end)

    it("and each write to the leader", function()
      start()
      assert.equal(200, (advance "0:5"))
      local _, by = host.ask(port, "/", "--request", "POST", "--header", "X-Tidemark: 0:5")
      assert.equal("leader\n", by)
      stop()
    end)
  end)

  -- ---- load, reload, kill -9 ----

  local function start_load(quota)
    return host_load.start(("http://127.0.0.1:%d"):format(admin), quota, 1)
  end

  -- Fails unless each mark in the answers of many requests for /marks, one after the other, is at least the one before; how many.
  local function check_answers(text)
    local count, before = 0, { 0, 0, 0, 0 }
    for line in text:gmatch "([^\n]+)\n" do
      local now = { line:match '^{"0":(%d+),"1":(%d+),"2":(%d+),"3":(%d+)}$' }
      assert.equal(4, #now, line)
      for i = 1, 4 do
        now[i] = math.tointeger(tonumber(now[i]))
        assert(now[i] >= before[i], line)
      end
      count, before = count + 1, now
    end
    return count
  end

  local no_wrk = host.missing "wrk"

  it("loses no mark and takes none back among 120,000 requests, over two reloads", function()
    if no_wrk then
      pending(no_wrk)
      return
    end
    local last = 30000
    start()
    assert.equal(NO_MARKS, marks())
    local watcher = host_load.watch(path, last)
    local reader = sandbox.spawn { "curl", "--silent", ("http://127.0.0.1:%d/marks?[1-1000000]"):format(admin) }
    local wrk = start_load(last)
    for _, seqno in ipairs { last // 3, last * 2 // 3 } do
      host_load.wait_for_mark(path, 0, seqno)
      local workers = host.children(server.pid)
      server:signal_with "sigusr2"
      command_line.wait_until("no new worker", function()
        local now = host.children(server.pid)
        return now[#now] and now[#now] ~= workers[#workers]
      end)
    end
    host_load.complete(wrk)
    local output = host_load.finish(wrk)
    assert(math.tointeger(tonumber(output:match "answered: (%d+)")) >= 4 * last, output)
    for thread = 1, 4 do
      assert(output:find("by thread: " .. thread, 1, true), output)
    end
    host_load.end_watch(watcher)
    reader:signal_with "sigterm"
    assert(check_answers(command_line.finish(reader).out:match ".*\n") > 100)
    assert.equal(('{"0":%d,"1":%d,"2":%d,"3":%d}\n'):format(last, last, last, last), marks())
    command_line.wait_until("old workers stay", function()
      return #host.children(server.pid) == 1
    end)
    stop()
  end)

  it("has every acknowledged mark after kill -9 in the middle of it", function()
    if no_wrk then
      pending(no_wrk)
      return
    end
    start()
    assert.equal(NO_MARKS, marks())
    local wrk = start_load(1000000)
    host_load.wait_for_mark(path, 3, 2000)
    local workers = host.children(server.pid)
    assert.equal(1, #workers)
    assert(uv.kill(workers[1], "sigkill"))
    assert.same({ false, "exit", 137 }, { server:wait() }) -- the master goes when its worker was killed
    host_load.check_acknowledged(path, host_load.finish(wrk))
    local state = assert(ReplicationState.open(path, nil, { readonly = true }))
    local found = state:to_checkpoint_bytes()
    state:close()
    start()
    assert.equal(found .. "\n", marks())
    stop()
  end)

  it("does what its README says", function()
    local output = host.run_readme(EXAMPLE .. "/README.md", {
      { "make deps host-deps\nmake LUA=5.3\n", "" }, -- as environment() does
      { "/usr/sbin/haproxy ", host.program "haproxy" .. " " },
      { "/tmp/haproxy.marks", path },
      { "8080", tostring(port) },
      { "8081", tostring(admin) },
    })
    assert.equal('leader\n{"shard":1,"seqno":42,"moved":true,"mark":42,"thread":N}\nfollower\n{"0":0,"1":42,"2":0,"3":0}\n',
      (output:gsub('"thread":[1-4]', '"thread":N')))
    assert.falsy(host.listens(port))
  end)

  -- ---- as Debian runs it ----

  it("runs in a chroot, as another user", function()
    local user = shell.run "getent passwd haproxy"
    if uv.getuid() ~= 0 or not user then
      pending "only root can go into a chroot, and haproxy must be a user"
      return
    end
    local directory = sandbox.tempdir()
    local text = command_line.read(EXAMPLE .. "/haproxy.cfg")
    text = text:gsub("\nglobal\n", ("%%0    chroot %s\n    user haproxy\n    group haproxy\n"):format(directory))
    command_line.write(directory .. "/haproxy.cfg", text)
    assert(shell.run(("chmod 755 '%s' && mkdir '%s/var' && chown haproxy '%s/var'"):format(directory, directory, directory)))
    start(directory .. "/haproxy.cfg", "/var/marks")
    assert.equal(200, (advance "1:42"))
    local workers = host.children(server.pid)
    server:signal_with "sigusr2"
    command_line.wait_until("the old worker stays", function()
      local now = host.children(server.pid)
      return #now == 1 and now[1] ~= workers[1]
    end)
    assert.equal('{"0":0,"1":42,"2":0,"3":0}\n', marks())
    stop()
    local ok, owner = shell.run(("stat -c %%U '%s/var/marks.live'"):format(directory))
    assert.same({ true, "haproxy\n" }, { ok, owner })
  end)
end)
