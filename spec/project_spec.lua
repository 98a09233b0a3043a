--- The project around the code: one version, one list of sources, what is exported, what `make install` and luarocks put in place.

local markdown = require "spec.support.markdown"
local sandbox = require "spec.support.sandbox"

local build = os.getenv "TIDEMARK_BUILD" or "build"
local lua = os.getenv "TIDEMARK_LUA" or "lua5.4"
local lua_version = lua:match "%d%.%d"

local function run(command)
  local pipe = io.popen(command .. " 2>&1")
  local output = pipe:read "a"
  local ok = pipe:close()
  return ok == true, output
end

local function list(command)
  local ok, output = run(command)
  assert(ok, output)
  local names = {}
  for name in output:gmatch "[^\n]+" do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

local function load_rockspec(path)
  local rockspec = {}
  assert(loadfile(path, "t", rockspec))()
  return rockspec
end

local version = markdown.read("csrc/include/tidemark.h"):match '#define TIDEMARK_VERSION "(.-)"'

describe("the version", function()
  it("is the same wherever it is told", function()
    assert.equal(version, require("tidemark")._VERSION)
    assert.equal(version, require("tidemark.core").VERSION)
    assert.equal(version, markdown.read("CHANGELOG.md"):match "\n## (%S+)")
    assert.equal(version, markdown.read(build .. "/tidemark.pc"):match "\nVersion: (%S+)")
    assert.truthy(markdown.read("docs/reference.md"):find('"' .. version .. '"', 1, true))
  end)
end)

describe("the rockspecs", function()
  it("list every source of the core", function()
    local sources = { table.unpack(load_rockspec("tidemark-scm-1.rockspec").build.modules["tidemark.core"].sources) }
    table.sort(sources)
    assert.same(list "ls csrc/core/*.c csrc/lua/*.c", sources)
  end)

  it("together list every Lua file, each once", function()
    local files = {}
    for _, path in ipairs(list "ls *.rockspec rocks/*.rockspec") do
      for name, file in pairs(load_rockspec(path).build.modules) do
        if type(file) == "string" then
          files[#files + 1] = file
          assert.equal(name, (file:gsub("^lua/", ""):gsub("/init%.lua$", ""):gsub("%.lua$", ""):gsub("/", ".")))
        end
      end
    end
    table.sort(files)
    assert.same(list "find lua -name '*.lua'", files)
  end)

  -- luarocks looks in rockspec/ and rockspecs/ as well, and a bare `luarocks make` must find one only
  it("are one at the top and the others in rocks/", function()
    assert.same({ "tidemark-scm-1.rockspec" }, list "ls *.rockspec")
    assert.same({}, list "find . -maxdepth 1 -name rockspec -o -maxdepth 1 -name rockspecs")
  end)
end)

describe("the libraries", function()
  local function exported(file)
    local names = {}
    for _, line in ipairs(list(("nm -D --defined-only '%s/%s'"):format(build, file))) do
      names[#names + 1] = line:match "%S+$"
    end
    return names
  end

  it("export luaopen_ and the public API only", function()
    if build:find "asan" then
      pending "a sanitizer adds names"
      return
    end
    assert.same({ "luaopen_tidemark_core" }, exported(("lua%s/tidemark/core.so"):format(lua_version)))
    local declared = {}
    for name in markdown.read("csrc/include/tidemark.h"):gmatch "TIDEMARK_API [^(;]-(tidemark_[%w_]+)%(" do
      declared[#declared + 1] = name
    end
    local found = exported "libtidemark.so.0"
    table.sort(declared)
    table.sort(found)
    assert.same(declared, found)
  end)
end)

describe("installing", function()
  if os.getenv "LD_PRELOAD" then
    pending "not with a sanitizer preloaded into compilers"
    return
  end
  local directory

  setup(function()
    directory = sandbox.tempdir()
  end)
  teardown(sandbox.cleanup)

  local function write(name, text)
    local file = assert(io.open(directory .. "/" .. name, "w"))
    file:write(text)
    file:close()
  end

  -- A script that sees only the modules below `tree`.
  local function script(tree, text)
    write("script.lua", text)
    local suffix = lua_version:gsub("%.", "_")
    local share, lib = tree .. "/share/lua/" .. lua_version, tree .. "/lib/lua/" .. lua_version
    local paths = ("LUA_PATH_%s='%s/?.lua;%s/?/init.lua' LUA_CPATH_%s='%s/?.so'"):format(suffix, share, share, suffix, lib)
    return run(("cd / && %s %s %s/script.lua"):format(paths, lua, directory))
  end

  local FOLLOW = [[
    local state = require("tidemark").ReplicationState.new {0}
    assert(state:advance(0, 5))
    print(state:to_checkpoint_bytes())
  ]]

  it("by make gives Lua its modules and C its header, libraries and pkg-config file", function()
    local prefix = directory .. "/prefix"
    local ok, output = run(("make install LUA=%s BUILD='%s' PREFIX='%s'"):format(lua_version, build, prefix))
    assert(ok, output)
    assert.same({ true, '{"0":5}\n' }, { script(prefix, FOLLOW) })
    write("program.c", [[
      #include <stdio.h>
      #include <tidemark.h>
      int main(void) {
          tidemark_state *state;
          const uint32_t shard = 3;
          if (tidemark_state_new(&shard, 1, &state, NULL) < 0) return 1;
          printf("%d %s\n", tidemark_state_advance(state, 3, 9), tidemark_version());
          tidemark_state_release(state);
          return 0;
      }
    ]])
    for _, link in ipairs { "", "-Wl,-rpath," .. prefix .. "/lib", "-static" } do
      local options = "--cflags --libs " .. (link == "-static" and "--static" or "")
      local flags = ("$(PKG_CONFIG_PATH='%s/lib/pkgconfig' pkg-config %s tidemark)"):format(prefix, options)
      local path = link == "" and ("LD_LIBRARY_PATH='%s/lib' "):format(prefix) or ""
      ok, output = run(("cd '%s' && cc program.c %s %s -o program && %s./program"):format(directory, link, flags, path))
      assert(ok, output)
      assert.equal("1 " .. version .. "\n", output)
    end
  end)

  it("by make honours DESTDIR", function()
    local ok, output = run(("make install LUA=%s BUILD='%s' PREFIX=/opt/x DESTDIR='%s/stage'"):format(lua_version, build, directory))
    assert(ok, output)
    assert.truthy(io.open(directory .. "/stage/opt/x/include/tidemark_lua.h"))
    assert.truthy(markdown.read(directory .. "/stage/opt/x/lib/pkgconfig/tidemark.pc"):find("prefix=/opt/x\n", 1, true))
    assert(run(("make -s '%s/tidemark.pc' BUILD='%s'"):format(build, build)))
  end)

  local has_luarocks = run "command -v luarocks"

  it("by luarocks works off line", function()
    if not has_luarocks then
      pending "luarocks is not installed"
      return
    end
    -- in a copy: luarocks leaves its objects beside the sources
    local ok, output = run(("mkdir '%s/copy' && cp -r tidemark-scm-1.rockspec bin csrc lua '%s/copy'"):format(directory, directory))
    assert(ok, output)
    local luarocks = ("luarocks --lua-version %s make --deps-mode=none"):format(lua_version)
    ok, output = run(("cd '%s/copy' && %s --tree '%s/tree'"):format(directory, luarocks, directory))
    assert(ok, output)
    assert.same({ true, '{"0":5}\n' }, { script(directory .. "/tree", FOLLOW) })
    ok, output = run(("nm -D --defined-only '%s/tree/lib/lua/%s/tidemark/core.so'"):format(directory, lua_version))
    assert(ok and output:match "^%x+ T luaopen_tidemark_core\n$", output)
  end)

  it("is tested by luarocks", function()
    if not has_luarocks or lua_version ~= "5.4" then
      pending "luarocks is not installed, or this is not Lua 5.4"
      return
    end
    -- one small file of the suite, or this would run itself, as it also would with the SPECS= of a `make spec` around it
    local ok, output = run("MAKEFLAGS= SPECS=spec/formats_spec.lua luarocks --lua-version 5.4 test tidemark-scm-1.rockspec")
    assert(ok, output)
    assert.truthy(output:find "\n%d+ passed, 0 failed\n")
  end)
end)
