--- The command line as a whole: help, usage, progress, terminals. Its commands: the other cli_*_spec.lua.

local ReplicationState = require "tidemark.replication_state"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"

local run = command_line.run
local COMMANDS = {
  append = { "--shards N", "--key FIELD", "--batch N", "<dir>", "[<file>]" },
  follow = { "--db FILE", "--state FILE", "--exec CMD", "--print", "--once", "<dir>", "TIDEMARK_SHARD", "TIDEMARK_FIRST_SEQNO",
    "TIDEMARK_LAST_SEQNO" },
  status = { "--log DIR", "--json", "--watch [SECONDS]", "<target>" },
  reset = { "<file>", "<mark>", "SHARD:SEQNO", "End the follower first", "yours to take back" },
  verify = { "<dir>" },
  salvage = { "--from LOG", "<dir>", "<newdir>", "NEWDIR/salvaged" },
  inspect = { "<file>" },
}

describe("the command line", function()
  after_each(sandbox.cleanup)

  it("tells its version", function()
    assert.same({ code = 0, out = ("tidemark %s\n"):format(require("tidemark")._VERSION), err = "" }, run "--version")
  end)

  it("tells of every command, its options and the exit codes", function()
    local help = run("--help").out
    local names = {}
    for name, parts in pairs(COMMANDS) do
      names[#names + 1] = name
      assert.truthy(help:find("\n   " .. name .. " ", 1, true), name)
      local result = run(name, "--help")
      assert.same({ 0, "" }, { result.code, result.err })
      for _, part in ipairs(parts) do
        assert.truthy(result.out:find(part, 1, true), part)
      end
      assert.truthy(result.out:find("exit codes:\n   0  done.+\n   1  .+\n   2  .+\n   3  "), result.out)
    end
    local _, count = help:match("\nCommands:\n(.-)\n\n"):gsub("\n?   %l+ ", "")
    assert.equal(#names, count)
  end)

  it("describes every command and option in the reference", function()
    local reference = command_line.read "docs/reference.md"
    local section = reference:match "\n## Command line\n(.-)\n## "
    for name in pairs(COMMANDS) do
      assert.truthy(section:find("`tidemark " .. name, 1, true), name)
      for option in run(name, "--help").out:gmatch "\n   (%-%-%l+)" do
        assert.truthy(section:find("`" .. option, 1, true), name .. " " .. option)
      end
    end
  end)

  for _, arguments in ipairs {
    {},
    { "bogus" },
    { "--bogus" },
    { "append" },
    { "append", "" },
    { "append", "d", "--shards", "0" },
    { "append", "d", "--shards", "65537" },
    { "append", "d", "--shards", "1.5" },
    { "append", "d", "--batch", "many" },
    { "append", "d", "--key" },
    { "append", "d", "" },
    { "follow" },
    { "status" },
    { "status", "s", "--watch", "0" },
    { "status", "s.live" },
    { "verify", "a", "b" },
    { "inspect", "" },
    { "reset" },
    { "reset", "f" },
    { "reset", "", "0:1" },
    { "reset", "f.live", "0:1" },
    { "reset", "f", "1" },
    { "reset", "f", "0:-1" },
    { "reset", "f", "65536:1" },
    { "reset", "f", "0:9223372036854775808" },
    { "reset", "f", "0:1", "1:" },
    { "salvage", "a" },
    { "salvage", "a", "" },
    { "salvage", "a", "b", "--from" },
  } do
    it("ends with 2 and the usage for the arguments '" .. table.concat(arguments, " ") .. "'", function()
      local result = run(table.unpack(arguments))
      assert.same({ 2, "" }, { result.code, result.out })
      assert.truthy(result.err:find "^Usage: tidemark .+\n\nError: %S[^\n]+\n$", result.err)
    end)
  end

  it("tells of errors with long and odd paths", function()
    for _, path in ipairs { ("x"):rep(5000), "/dev/null/x", "\xff", "%s%n", "no such\nfile" } do
      for _, arguments in ipairs { { "status", path }, { "verify", path }, { "inspect", path }, { "reset", path, "0:1" },
        { "follow", path, "--db", path } } do
        local result = run(table.unpack(arguments))
        assert.same({ 1, "" }, { result.code, result.out })
        assert.equal(1, result.err:find("tidemark: " .. path:sub(1, 100), 1, true))
        assert.falsy(result.err:find "traceback")
      end
    end
  end)
end)

describe("progress", function()
  local directory, log

  before_each(function()
    directory = sandbox.tempdir()
    log = directory .. "/log"
  end)
  after_each(sandbox.cleanup)

  local has_script = os.execute "command -v script >/dev/null 2>&1"

  -- What a terminal shows while sh runs `command` in it.
  local function on_terminal(command)
    command_line.write(directory .. "/command.sh", command)
    return command_line.run_words { "script", "-qec", "sh '" .. directory .. "/command.sh'", "/dev/null" }
  end

  if has_script then
    it("is a bar that is written over on a terminal, and removed in the end", function()
      command_line.make_log(log, 1, 10)
      local command = command_line.shell("follow", log, "--state", directory .. "/state", "--exec", "sleep 0.05; cat", "--once")
      local out = on_terminal(command .. " 3>&1").out
      local bar = "\r\27%[K\27%[%?7l%[[#-]+%] %d+ of 20 applied, lag %d+\27%[%?7h"
      assert.truthy(out:find(bar), out)
      -- the command's output never stands behind the bar
      local rest = out:gsub(bar .. "\r\27%[K", ""):gsub("\r\n", "\n")
      local records = {}
      for seqno = 1, 20 do
        records[seqno] = ("0:%d\n"):format(seqno)
      end
      assert.equal(table.concat(records) .. "[####################] 20 of 20 applied, lag 0; 10 batches in this run, 0 skipped\n", rest)
    end)

    it("shows how many lines were appended", function()
      -- the second line comes when the first one is being written, and some time after the start
      local wait = ("n=0; until ls '%s'/*.wal || test $n -gt 600; do sleep 0.1; n=$((n + 1)); done >/dev/null 2>&1"):format(log)
      local out = on_terminal(("(echo a; %s; sleep 0.2; echo b) | %s"):format(wait, command_line.shell("append", log))).out
      assert.truthy(out:find("\r\27[K\27[?7l1 record appended, line 2 of standard input\27[?7h\r\27[K2 records", 1, true), out)
    end)

    it("leaves a terminal as it was: reads block for the others who have it", function()
      local out = on_terminal(([[
        exec 3<&0
        %s <&3 &
        n=0; until test -e '%s/heads.live' || test $n -gt 600; do sleep 0.1; n=$((n + 1)); done
        sleep 0.2; kill -TERM $!; wait $!; echo code $?
        cat /proc/self/fdinfo/3]]):format(command_line.shell("append", log), log)).out
      assert.truthy(out:find "code 0", out)
      local flags = tonumber(out:match "flags:%s+(%d+)", 8)
      assert.equal(0, flags & 2048, "O_NONBLOCK is set")
    end)
  else
    pending "on a terminal: script of util-linux is not installed"
  end

  it("is a line every few seconds otherwise, while something changes", function()
    command_line.make_log(log, 1, 5)
    -- its clock is a hundred times as fast
    local fast = "local uv = require 'luv'; local hrtime = uv.hrtime; uv.hrtime = function() return hrtime() * 100 end"
    local words = command_line.words(fast, "follow", log, "--state", directory .. "/state", "--exec", "sleep 0.06")
    local child = sandbox.spawn(words, true)
    child:wait_until(function()
      return child.errors:find "10 of 10 applied"
    end, "did not show the end", command_line.PATIENCE)
    local state = assert(ReplicationState.open(directory .. "/state", nil, { readonly = true }))
    require("luv").sleep(400) -- some more periods in which nothing happens
    state:close()
    child:signal_with "sigterm"
    local err = command_line.finish(child).err
    local seen, count = {}, 0
    for line in err:gmatch "([^\n]*)\n" do
      if not line:find "in this run" then
        assert.truthy(line:find "^%[[#-]+%] %d+ of 10 applied, lag %d+$", line)
        assert.is_nil(seen[line])
        seen[line], count = true, count + 1
      end
    end
    assert.truthy(count >= 2, err)
    assert.falsy(err:find "[\r\27]")
  end)
end)
