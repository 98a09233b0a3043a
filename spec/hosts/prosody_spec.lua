--- examples/prosody, by curl and wrk: several Prosody processes and one of Lua on one state file, reload, checkpoints, kill -9.

local command_line = require "spec.support.command_line"
local host = require "spec.support.host"
local host_load = require "spec.support.host_load"
local ReplicationState = require "tidemark.replication_state"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local uv = require "luv"

local EXAMPLE = "examples/prosody"
local NO_MARKS = '{"0":0,"1":0,"2":0,"3":0}\n'

describe("Prosody", function()
  local reason = host.missing("prosody", "curl")
  if not reason and not command_line.read(host.program "prosody"):find "^#![^\n]*lua5%.4" then
    reason = "this Prosody does not run under Lua 5.4"
  end
  if reason then
    pending(reason)
    return
  end

  local here = assert(uv.cwd())
  local directory, path, environment
  local started -- the servers of a spec

  setup(function()
    environment = host.environment("5.4", EXAMPLE)
  end)

  -- What one process has for itself: `data`, `port`.
  local function make_server()
    local data = sandbox.tempdir()
    return { data = data, port = host.free_ports(1), configuration = here .. "/" .. EXAMPLE .. "/prosody.cfg.lua" }
  end

  -- The words that start it; what it tells goes to standard error.
  local function words(server, mode)
    local list = { table.unpack(server.environment or environment) }
    for _, word in ipairs { "EXAMPLE=" .. (server.home or here .. "/" .. EXAMPLE), "TIDEMARK_STATE=" .. (server.state or path),
      "DATA=" .. server.data, "HTTP_PORT=" .. server.port, "RUN_AS_ROOT=" .. (server.run_as_root or "true"),
      "sh", "-c", 'exec "$@" >&2', "sh" } do
      list[#list + 1] = word
    end
    table.move(server.user or {}, 1, #(server.user or {}), #list + 1, list)
    for _, word in ipairs { host.program "prosody", mode or "-F", "--config", server.configuration } do
      list[#list + 1] = word
    end
    return list
  end

  local function ask(server, query, ...)
    return host.ask(server.port, "/tidemark" .. query, ...)
  end

  local function advance(server, query)
    local status, body = ask(server, "/advance" .. query, "--data", "")
    return status, body
  end

  local function marks(server)
    local status, body = ask(server, "/marks")
    assert.equal(200, status)
    return body
  end

  -- Starts it and waits for an answer: before its event loop runs, SIGTERM would be its death.
  local function start(server)
    server = server or make_server()
    server.process = host.start(words(server), { server.port })
    started[#started + 1] = server
    assert.truthy((ask(server, "/marks")))
    return server
  end

  local function stop(server)
    assert.same({ true, "exit", 0 }, { host.stop(server.process, "sigterm") })
    assert(not server.process.errors:find("Traceback", 1, true), server.process.errors)
  end

  -- The example's configuration with changes: a list of {what, by what}.
  local function configure(server, changes)
    local text = command_line.read(EXAMPLE .. "/prosody.cfg.lua")
    for _, change in ipairs(changes) do
      local first, last = text:find(change[1], 1, true)
      text = text:sub(1, assert(first, change[1]) - 1) .. change[2] .. text:sub(last + 1)
    end
    server.configuration = server.data .. "/prosody.cfg.lua"
    command_line.write(server.configuration, text)
  end

  before_each(function()
    directory = sandbox.tempdir()
    path = directory .. "/marks"
    started = {}
  end)

  after_each(function()
    for _, server in ipairs(started) do
      if not server.process.exit_code then
        host.stop(server.process, "sigterm")
      end
    end
    sandbox.cleanup()
  end)

  it("advances marks and tells them as a checkpoint", function()
    local server = start()
    assert.equal(NO_MARKS, marks(server))
    assert.same({ 200, '{"shard":2,"seqno":42,"moved":true,"mark":42}\n' }, { advance(server, "?shard=2&seqno=42") })
    assert.same({ 200, '{"shard":2,"seqno":41,"moved":false,"mark":42}\n' }, { advance(server, "?seqno=41&shard=2") })
    assert.equal(200, (advance(server, "?shard=3&seqno=9223372036854775807")))
    local status, body, head = ask(server, "/marks")
    assert.same({ 200, '{"0":0,"1":0,"2":42,"3":9223372036854775807}\n' }, { status, body })
    assert.truthy(head:find("Content-Type: application/json\r\n", 1, true), head)
    assert.falsy(head:find("Access-Control", 1, true), head)
    stop(server)
  end)

  it("refuses what is no shard and seqno, and changes nothing", function()
    local server = start()
    for _, query in ipairs { "", "?", "?0:1", "?shard=0", "?seqno=1", "?shard=&seqno=1", "?shard=0&seqno=", "?shard=-1&seqno=1",
      "?shard=65536&seqno=1", "?shard=0&seqno=-1", "?shard=0&seqno=1.0", "?shard=0&seqno=1e3", "?shard=0x0&seqno=1",
      "?shard=0&seqno=9223372036854775808" } do
      assert.same({ 400, "expected shard=0..65535&seqno=0..2^63-1\n" }, { advance(server, query) })
    end
    assert.same({ 404, "shard 9 is not tracked\n" }, { advance(server, "?shard=9&seqno=1") })
    assert.equal(404, (ask(server, "/advance?shard=0&seqno=1")))
    assert.equal(404, (ask(server, "/")))
    assert.equal(NO_MARKS, marks(server))
    stop(server)
  end)

  it("tells Prometheus the marks", function()
    local server = start()
    assert.equal(200, (advance(server, "?shard=1&seqno=9223372036854775807")))
    local status, body, head = ask(server, "/metrics")
    assert.equal(200, status)
    assert.truthy(head:find("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n", 1, true), head)
    assert.truthy(body:find "^# HELP tidemark_applied_seqno [^\n]+\n# TYPE tidemark_applied_seqno gauge\ntidemark_applied_seqno")
    local found = {}
    for shard, value in body:gmatch '\ntidemark_applied_seqno{shard="(%d+)"} (%d+)%f[\n]' do
      found[#found + 1] = shard .. "=" .. value
    end
    assert.equal("0=0 1=9223372036854775807 2=0 3=0", table.concat(found, " "))
    stop(server)
  end)

  it("tells why the state cannot be opened, and opens it once it can", function()
    local server = make_server()
    server.state = directory .. "/later/marks"
    start(server)
    local status, body = ask(server, "/marks")
    assert.equal(503, status)
    assert.truthy(body:find("/later/marks", 1, true), body)
    assert.equal(503, (advance(server, "?shard=0&seqno=1")))
    assert(shell.run(("mkdir '%s/later'"):format(directory)))
    assert.equal(NO_MARKS, marks(server))
    stop(server)
    assert.truthy(server.process.errors:find("/later/marks", 1, true), "the log does not tell it")
  end)

  -- ---- checkpoints ----

  local function wait_for_checkpoint(seqno)
    command_line.wait_until("no checkpoint", function()
      return host_load.durable_mark(path, 1) == seqno
    end)
  end

  it("makes checkpoints by itself", function()
    local server = start()
    for seqno = 5, 6 do
      assert.equal(200, (advance(server, "?shard=1&seqno=" .. seqno)))
      wait_for_checkpoint(seqno)
    end
    stop(server)
  end)

  it("makes a checkpoint when it is unloaded, and when Prosody ends", function()
    local server = make_server()
    configure(server, {
      { "tidemark_checkpoint_seconds = 1", "tidemark_checkpoint_seconds = 3600" },
      { "plugin_paths = {", ("plugin_paths = { %q,"):format(server.data) },
      { '"tidemark" }', '"tidemark", "loader" }' },
    })
    command_line.write(server.data .. "/mod_loader.lua", [[
      module:set_global()
      for signal, verb in pairs { SIGUSR1 = "unload", SIGUSR2 = "load" } do
        module:hook("signal/" .. signal, function()
          assert(require("core.modulemanager")[verb]("*", "tidemark"))
          io.stderr:write(verb, " done\n")
        end)
      end
    ]])
    start(server)
    assert.equal(200, (advance(server, "?shard=1&seqno=5")))
    assert.not_equal(5, host_load.durable_mark(path, 1))
    local pid = server.process.pid
    local descriptors = host_load.descriptors(pid, path)
    assert(descriptors > 0)
    for signal, verb in pairs { sigusr1 = "unload", sigusr2 = "load" } do
      server[verb] = function()
        server.process:signal_with(signal)
        server.process:wait_until(function()
          return server.process.errors:find(verb .. " done", 1, true)
        end, "did not " .. verb)
      end
    end
    server.unload()
    assert.equal(404, (ask(server, "/marks")))
    assert.equal(5, host_load.durable_mark(path, 1))
    assert.equal(0, host_load.descriptors(pid, path))
    server.load()
    assert.equal('{"0":0,"1":5,"2":0,"3":0}\n', marks(server))
    assert.equal(descriptors, host_load.descriptors(pid, path))
    assert.equal(200, (advance(server, "?shard=1&seqno=6")))
    assert.equal(5, host_load.durable_mark(path, 1))
    stop(server)
    assert.equal(6, host_load.durable_mark(path, 1))
  end)

  it("goes into the background, and only then opens the state", function()
    local server = make_server()
    local result = command_line.run_words(words(server, "-D"))
    assert.equal(0, result.code, result.err)
    local pid
    command_line.wait_until("no pid file", function()
      pid = math.tointeger(tonumber(command_line.read(server.data .. "/prosody.pid")))
      return pid
    end)
    local ok, message = pcall(function()
      assert.equal(200, (advance(server, "?shard=1&seqno=5")))
      wait_for_checkpoint(5)
    end)
    uv.kill(pid, "sigterm")
    command_line.wait_until("it does not end", function()
      return not command_line.read(server.data .. "/prosody.pid")
    end)
    assert(ok, message)
  end)

  -- ---- several processes, kill -9 ----

  -- Goes along with the others, who come to `last`, and then one further.
  local ADVANCE = [[
    local path, last = ...
    last = math.tointeger(tonumber(last))
    local state = assert(require("tidemark.replication_state").open(path, nil, { create = false }))
    for seqno = 100, last, 100 do
      assert(state:wait_for(0, seqno - 50, 60))
      assert(state:advance(0, seqno) ~= nil)
    end
    for shard = 0, 3 do
      assert(state:wait_for(shard, last, 60))
      assert(state:advance(shard, last + 1) == true)
    end
  ]]
  local QUERY = "shard=%s&seqno=%s"
  local no_wrk = host.missing "wrk"

  local function start_load(server, quota, first, step)
    return host_load.start(("http://127.0.0.1:%d/tidemark"):format(server.port), quota, first, QUERY, step)
  end

  it("shares the marks with another Prosody and a Lua process, among 24,000 requests", function()
    if no_wrk then
      pending(no_wrk)
      return
    end
    local quota = 3000
    local last = 2 * quota
    local servers = { start(), start() }
    local watcher = host_load.watch(path, last + 1)
    local process = sandbox.start(ADVANCE, path, last)
    -- 1..4, 9..12 and so on by one, 5..8, 13..16 and so on by the other
    local loads = { start_load(servers[1], quota, 1, 8), start_load(servers[2], quota, 5, 8) }
    for _, load in ipairs(loads) do
      host_load.complete(load)
      local output = host_load.finish(load)
      assert(math.tointeger(tonumber(output:match "answered: (%d+)")) >= 4 * quota, output)
    end
    assert.same({ true, "exit", 0 }, { process:wait() })
    host_load.end_watch(watcher)
    for _, server in ipairs(servers) do
      assert.equal(('{"0":%d,"1":%d,"2":%d,"3":%d}\n'):format(last + 1, last + 1, last + 1, last + 1), marks(server))
      stop(server)
    end
    assert.equal(last + 1, host_load.durable_mark(path, 3))
  end)

  it("has every acknowledged mark after kill -9", function()
    if no_wrk then
      pending(no_wrk)
      return
    end
    local server = start()
    local wrk = start_load(server, 1000000, 1)
    host_load.wait_for_mark(path, 3, 1000)
    server.process:kill()
    assert.same({ false, "signal", 9 }, { server.process:wait() })
    host_load.check_acknowledged(path, host_load.finish(wrk))
    local state = assert(ReplicationState.open(path, nil, { readonly = true }))
    local found = state:to_checkpoint_bytes()
    state:close()
    server = start()
    assert.equal(found .. "\n", marks(server))
    stop(server)
  end)

  -- ---- as Debian runs it ----

  it("runs as the user prosody, with the modules where `make install` puts them", function()
    local obstacle = host.cannot_become "prosody"
    if obstacle then
      pending(obstacle)
      return
    end
    local share, lib = directory .. "/share/lua/5.4", directory .. "/lib/lua/5.4"
    local server = make_server()
    configure(server, {})
    assert(shell.run(([[
      mkdir -p '%s' '%s' '%s/var' && cp -r lua/tidemark '%s' && cp -r build/lua5.4/tidemark '%s' && cp -r examples/prosody/modules '%s' &&
      chmod 755 '%s' && chown -R prosody '%s' '%s/var']]):format(share, lib, directory, share, lib, directory, directory, server.data,
      directory)))
    path = directory .. "/var/marks"
    server.home, server.run_as_root = directory, ""
    server.user = { "setpriv", "--reuid=prosody", "--regid=prosody", "--init-groups" }
    server.environment = { "env", "--chdir=/", ("LUA_PATH_5_4=%s/?.lua;%s/?/init.lua;;"):format(share, share),
      ("LUA_CPATH_5_4=%s/?.so;;"):format(lib) }
    start(server)
    assert.equal(200, (advance(server, "?shard=1&seqno=42")))
    stop(server)
    assert.equal(42, host_load.durable_mark(path, 1))
    local ok, owner = shell.run(("stat -c '%%U %%a' '%s' '%s.live'"):format(path, path))
    assert.same({ true, "prosody 600\nprosody 600\n" }, { ok, owner })
  end)
end)
