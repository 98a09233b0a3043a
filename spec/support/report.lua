--- busted's plain output with the name of each file before its dots, and a last line for machines. It also ends the
--- run: busted's own exit status is the number of failures, which 256 of them would turn into success.

local plain = require "busted.outputHandlers.plainTerminal"

return function(options)
  local busted = require "busted"
  local handler = plain(options)
  local ran = 0

  busted.subscribe({ "file", "start" }, function(file)
    io.write(file.name, " ")
    io.flush()
    return nil, true
  end)

  busted.subscribe({ "file", "end" }, function()
    io.write "\n"
    return nil, true
  end)

  busted.subscribe({ "test", "end" }, function()
    ran = ran + 1
    return nil, true
  end)

  busted.subscribe({ "exit" }, function()
    local failed = handler.failuresCount + handler.errorsCount
    local skipped = handler.pendingsCount
    print(("%d passed, %d failed%s"):format(handler.successesCount, failed, skipped > 0 and (", %d skipped"):format(skipped) or ""))
    os.exit(failed == 0 and ran > skipped, true)
  end)

  return handler
end
