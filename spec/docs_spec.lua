--- The documentation is true: every snippet runs, every public function and error code stands in the reference.

local markdown = require "spec.support.markdown"
local sandbox = require "spec.support.sandbox"

local PAGES = { "README.md", "docs/reference.md", "docs/embedding.md", "docs/formats.md" }
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
    local directory, script

    describe(page, function()
      setup(function()
        directory = sandbox.tempdir()
      end)

      for _, block in ipairs(markdown.blocks(markdown.read(page))) do
        local title = ("%s:%d"):format(page, block.line)
        if block.language == "lua" and block.name then
          script = block.name
          it(title .. " is a script that loads", function()
            assert(load(block.text, "=" .. title))
            write(directory .. "/" .. block.name, block.text)
          end)
        elseif block.language == "lua" then
          it(title .. " runs and prints what it says", function()
            write(directory .. "/snippet.lua", block.text)
            local ok, output = shell(directory, environment() .. interpreter .. " snippet.lua")
            assert(ok, output)
            assert.equal(promised(block.text), (output:gsub("[ \t]+", " "):gsub("\n$", "")))
          end)
        elseif block.language == "sh" and script and block.text:find(script, 1, true) then
          it(title .. " runs the script above", function()
            local commands = block.text:gsub("lua5%.4", interpreter)
            local ok, output = shell(directory, environment() .. commands)
            assert(ok, output)
            if page == "README.md" then
              assert.equal("one\nuno\ntwo\nthree\n", output:match "one\nuno.*$")
              assert.truthy(output:find("shard 0 applied up to 3", 1, true))
            end
          end)
        elseif block.language == "sh" then
          it(title .. " names targets that exist", function()
            for target in block.text:gmatch "make ([%l%-]+)" do
              if not block.text:find("luarocks[^\n]*make " .. target) then
                local ok, output = shell(directory, ("make -s -n -C '%s' %s >/dev/null"):format(here, target))
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

  it("has every public Lua function, and the types too", function()
    local types = markdown.read "docs/meta/replication_state.lua"
    local count = 0
    for name in pairs(require "tidemark.replication_state") do
      if name ~= "__index" then
        count = count + 1
        assert(reference:find("`[%a]+[.:]" .. name .. "%("), "docs/reference.md lacks " .. name)
        assert(types:find("function ReplicationState[.:]" .. name .. "%("), "docs/meta lacks " .. name)
      end
    end
    assert(count >= 15, "too few functions: " .. count)
  end)

  it("has every public function of the follower, and every option", function()
    local source = markdown.read "lua/tidemark/follower.lua"
    local count = 0
    for name in pairs(require "tidemark.follower") do
      if not name:find "^__" then
        count = count + 1
        assert(reference:find("`[%a]+[.:]" .. name .. "%("), "docs/reference.md lacks " .. name)
      end
    end
    assert.equal(6, count)
    for name in source:match("local OPTIONS = (%b{})"):gmatch "\n  ([%l_]+) =" do
      count = count + 1
      assert(reference:find("`" .. name, 1, true), "docs/reference.md lacks the option " .. name)
      assert(markdown.read("docs/meta/follower.lua"):find("---@field " .. name, 1, true), "docs/meta lacks the option " .. name)
    end
    assert.equal(15, count)
  end)

  it("has every public function of FollowerDb", function()
    local count = 0
    for name in pairs(require "tidemark.follower_db") do
      if not name:find "^__" then
        count = count + 1
        local call = (name == "open" and "`FollowerDb." or "`db:") .. name .. "("
        assert(reference:find(call, 1, true), "docs/reference.md lacks " .. call)
      end
    end
    assert.equal(6, count)
  end)

  it("has every public C function", function()
    local count = 0
    for _, header in ipairs { "csrc/include/tidemark.h", "csrc/include/tidemark_lua.h" } do
      for name in markdown.read(header):gmatch "\n[%a][^\n=;#]-(tidemark_[%w_]+)%(" do
        count = count + 1
        assert(reference:find("`" .. name .. "`", 1, true), "docs/reference.md lacks " .. name)
      end
    end
    assert(count >= 19, "too few functions: " .. count)
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
