--- CRC32C by its definition (RFC 3720), bit by bit: for specs that check or forge bytes.

---@param text string
---@return integer
return function(text)
  local crc = 0xFFFFFFFF
  for i = 1, #text do
    crc = crc ~ text:byte(i)
    for _ = 1, 8 do
      crc = (crc >> 1) ~ (crc & 1 == 1 and 0x82F63B78 or 0)
    end
  end
  return crc ~ 0xFFFFFFFF
end
