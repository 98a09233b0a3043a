--- The documentation is true: every snippet runs, every public function and error code stands in the reference.

local markdown = require "spec.support.markdown"
local sandbox = require "spec.support.sandbox"

local PAGES = { "README.md", "docs/guide.md", "docs/reference.md", "docs/embedding.md", "docs/formats.md", "docs/performance.md",
  "docs/performance-log.md" }
local build = os.getenv "TIDEMARK_BUILD" or "build"
local interpreter = os.getenv "TIDEMARK_LUA" or "lua5.4"
local here = io.popen("pwd"):read "l"

-- The command, run by sh in `directory`: whether it worked, and its output.
local function shell(directory, command)
  local path = directory .. "/command.sh"
  local file = assert(io.open(path, "w"))
  file:write("set -e\n", command)
  file:close()
  local pipe = io.popen(("cd '%s' && sh command.sh 2>&1"):format(directory))
  local output = pipe:read "a"
  return pipe:close() == true, output
end

-- Snippets run elsewhere, with the modules of this tree.
local function environment()
  local lines = {}
  for _, version in ipairs { "5_3", "5_4" } do
    local lua, c = os.getenv("LUA_PATH_" .. version) or ";;", os.getenv("LUA_CPATH_" .. version) or ";;"
    local function absolute(path)
      return (path:gsub("[^;]+", function(part)
        return part:match "^/" and part or here .. "/" .. part
      end))
    end
    lines[#lines + 1] = ("export LUA_PATH_%s='%s' LUA_CPATH_%s='%s'\n"):format(version, absolute(lua), version, absolute(c))
  end
  return table.concat(lines)
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

-- A directory for the scripts of a page, with `tidemark` on the path of what is run there.
local function new_directory()
  local directory = sandbox.tempdir()
  os.execute(("mkdir '%s/bin'"):format(directory))
  write(directory .. "/bin/tidemark", ("#!/bin/sh\nexec %s '%s/bin/tidemark' \"$@\"\n"):format(interpreter, here))
  os.execute(("chmod +x '%s/bin/tidemark'"):format(directory))
  return directory
end

-- One line's runs of space as one.
local function squeeze(text)
  return (text:gsub("[ \t]+", " "):gsub(" ?\n", "\n"))
end

-- What the comments `--> text` of a snippet promise, with runs of space as one.
local function promised(text)
  local lines = {}
  for comment in text:gmatch "%-%->%s*([^\n]*)" do
    lines[#lines + 1] = (comment:gsub("%s+", " "))
  end
  return table.concat(lines, "\n")
end

describe("documentation", function()
  teardown(sandbox.cleanup)

  for _, page in ipairs(PAGES) do
    local directory
    local scripts = {} -- names of the scripts above, to know which commands can be run

    local function can_run(commands)
      for line in commands:gmatch "[^\n]+" do
        if line:match "^tidemark " then
          return true
        end
      end
      for name in pairs(scripts) do
        if commands:find(name, 1, true) then
          return true
        end
      end
      return false
    end

    describe(page, function()
      setup(function()
        directory = new_directory()
      end)

      local blocks = markdown.blocks(markdown.read(page))
      for number, block in ipairs(blocks) do
        local title = ("%s:%d"):format(page, block.line)
        if block.language == "lua" and block.name then
          scripts[block.name] = true
          it(title .. " is a script that loads", function()
            assert(load(block.text, "=" .. title))
            write(directory .. "/" .. block.name, block.text)
          end)
        elseif block.language == "lua" then
          it(title .. " runs and prints what it says", function()
            write(directory .. "/snippet.lua", block.text)
            local ok, output = shell(directory, environment() .. interpreter .. " snippet.lua")
            assert(ok, output)
            assert.equal(promised(block.text), (squeeze(output):gsub("\n$", "")))
          end)
        elseif block.language == "sh" and can_run(block.text) then
          local following = blocks[number + 1]
          it(title .. " runs and prints what is said", function()
            local commands = block.text:gsub("lua5%.4", interpreter)
            local ok, output = shell(directory, environment() .. "export PATH=\"$PWD/bin:$PATH\"\n" .. commands)
            assert(ok, output)
            if following and following.language == "output" then
              assert.equal(squeeze(following.text), squeeze(output))
            end
          end)
        elseif block.language == "sh" then
          it(title .. " names targets that exist", function()
            for target in block.text:gmatch "make ([%l%-]+)" do
              if not block.text:find("luarocks[^\n]*make " .. target) then
                local ok, output = shell(directory, ("MAKEFLAGS= make -s -n -C '%s' %s >/dev/null"):format(here, target))
                assert(ok, output)
              end
            end
          end)
        elseif block.language == "c" then
          it(title .. " compiles" .. (block.name and " and runs" or ""), function()
            local source = block.text
            if not block.name then
              source = "#include <lauxlib.h>\n#include <tidemark_lua.h>\nvoid give(lua_State *, tidemark_state *);\n"
                .. source:gsub("^static ", "")
            end
            write(directory .. "/example.c", source)
            local compile = ("LD_PRELOAD= cc -Wall %s -I'%s/csrc/include' $(pkg-config --cflags %s) "):format(
              os.getenv "TIDEMARK_CFLAGS" or "", here, interpreter:match "lua5%.%d")
            if not block.name then
              local ok, output = shell(directory, compile .. "-c example.c")
              assert(ok, output)
              return
            end
            local link = ("example.c '%s/%s/libtidemark.a' -o example -pthread\nLD_PRELOAD= ./example"):format(here, build)
            local ok, output = shell(directory, compile .. link)
            assert(ok, output)
            assert.truthy(output:find("shard 7: 42", 1, true))
          end)
        end
      end
    end)
  end

  it("finds a snippet that lies", function()
    local blocks = markdown.blocks "- item\n  ```lua\n  print(1) --> 2\n  ```\n"
    assert.equal("print(1) --> 2\n", blocks[1].text)
    assert.equal("2", promised(blocks[1].text))
  end)
end)

describe("reference", function()
  local reference = markdown.read "docs/reference.md"

  local Wal = require "tidemark.wal"
  local wal, reader, source, watch

  setup(function()
    local directory = sandbox.tempdir() .. "/log"
    wal = assert(Wal.open(directory, { shards = { 0 } }))
    reader, source = assert(Wal.reader(directory, 0)), assert(Wal.source(directory))
    watch = require("tidemark.replication_state").single():watch(0, 1)
  end)

  teardown(function()
    watch:close()
    source:close()
    reader:close()
    assert(wal:close())
    sandbox.cleanup()
  end)

  local function methods_of(class)
    local name = class:lower()
    local object = ({ Reader = reader, Source = source, Watch = watch })[class]
    if object then
      return getmetatable(object).__index
    end
    return require("tidemark." .. (name == "replicationstate" and "replication_state" or name))
  end

  -- its name in the reference and the types, what a handle is called there, where its types stand, how many functions at least
  for _, class in ipairs {
    { "ReplicationState", "state", "docs/meta/replication_state.lua", 15 },
    { "Batch", "batch", "docs/meta/batch.lua", 6 },
    { "Wal", "wal", "docs/meta/wal.lua", 13 },
    { "Reader", "reader", "docs/meta/wal.lua", 3 },
    { "Source", "source", "docs/meta/wal.lua", 6 },
    { "Watch", "watch", "docs/meta/watch.lua", 3 },
  } do
    it("has every public Lua function of " .. class[1] .. ", and the types too", function()
      local name, handle, page, least = table.unpack(class)
      local types = markdown.read(page) .. (name == "Wal" and markdown.read "lua/tidemark/wal.lua" or "")
      local count = 0
      for method in pairs(methods_of(name)) do
        if not method:find "^__" then
          count = count + 1
          local called = reference:find(("`%s.%s("):format(name, method), 1, true)
            or reference:find(("`%s:%s("):format(handle, method), 1, true)
          assert(called, ("docs/reference.md lacks %s %s"):format(name, method))
          assert(types:find(("function %s[.:]%s%%("):format(name, method)), ("%s lacks %s"):format(page, method))
        end
      end
      assert(count >= least, "too few functions: " .. count)
    end)
  end

  it("has every field of a batch", function()
    for field in markdown.read("docs/meta/batch.lua"):match("Batch\n.-local Batch"):gmatch "%-%-%-@field (%S+)" do
      assert(reference:find("`" .. field .. "`", 1, true), "docs/reference.md lacks " .. field)
    end
  end)

  it("has every public function of the follower, and every option", function()
    local text = markdown.read "lua/tidemark/follower/setup.lua"
    local count = 0
    for name in pairs(require "tidemark.follower") do
      if not name:find "^__" then
        count = count + 1
        assert(reference:find("`[%a]+[.:]" .. name .. "%("), "docs/reference.md lacks " .. name)
      end
    end
    assert.equal(7, count)
    for name in text:match("local OPTIONS = (%b{})"):gmatch "\n  ([%l_]+) =" do
      count = count + 1
      assert(reference:find("`" .. name, 1, true), "docs/reference.md lacks the option " .. name)
      assert(markdown.read("docs/meta/follower.lua"):find("---@field " .. name, 1, true), "docs/meta lacks the option " .. name)
    end
    assert.equal(17, count)
  end)

  it("has every public function of FollowerDb", function()
    local count = 0
    for name in pairs(require "tidemark.follower_db") do
      if not name:find "^__" then
        count = count + 1
        local called = (name == "open" and "FollowerDb." or "db:") .. name
        assert(reference:find("`" .. called .. "(", 1, true), "docs/reference.md lacks " .. called)
      end
    end
    assert.equal(10, count)
  end)

  it("has every public C function", function()
    local count = 0
    for _, header in ipairs { "csrc/include/tidemark.h", "csrc/include/tidemark_lua.h" } do
      for name in markdown.read(header):gmatch "\n[%a][^\n=;#]-(tidemark_[%w_]+)%(" do
        count = count + 1
        assert(reference:find("`" .. name .. "`", 1, true), "docs/reference.md lacks " .. name)
      end
    end
    assert(count >= 40, "too few functions: " .. count)
  end)

  it("has every error code under its word", function()
    local codes = markdown.read("csrc/include/tidemark.h"):match "enum (%b{})"
    local words = markdown.read "csrc/core/error.c"
    local count = 0
    for code in codes:gmatch "(TIDEMARK_E[%u_]+) =" do
      count = count + 1
      local word = words:match("case " .. code .. ': return "([%u_]+)"')
      assert(word, code .. " has no word")
      if word ~= "INVALID" and word ~= "NO_MEMORY" then
        assert(reference:find(("| `%s` | `%s` |"):format(word, code), 1, true), "docs/reference.md lacks " .. code)
      end
    end
    assert(count >= 13, "too few codes: " .. count)
  end)
end)
