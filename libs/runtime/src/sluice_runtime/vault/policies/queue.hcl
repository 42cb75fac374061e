# Template, one for each queue: its runners open the grants that were sealed for it.
path "transit/decrypt/{key}" {
  capabilities = ["update"]
}
