--- Runs the specs with busted under the interpreter that runs this file (Debian's `busted` starts whichever `lua` is first):
---
---     lua5.4 spec/run.lua                              all of spec/
---     lua5.4 spec/run.lua spec/docs_spec.lua           one file
---     lua5.4 spec/run.lua --filter "between processes" busted's own options
---
--- `make spec` builds first and sets the paths. The last line is `N passed, N failed`, with `, N skipped` where there are any.

local options = { "--output", "spec/support/report.lua" }
local has_root = false
for i = 1, #arg do
  options[#options + 1] = arg[i]
  has_root = has_root or arg[i]:find "_spec%.lua$" ~= nil
end
if not has_root then
  options[#options + 1] = "spec"
end
arg = table.move(options, 1, #options, 1, { [0] = arg[0] }) -- luacheck: ignore (busted reads it)

require "busted.runner" { standalone = false }
