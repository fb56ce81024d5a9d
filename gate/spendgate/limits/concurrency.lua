-- Twin of concurrency.py: it concerns no event yet.
kinds.concurrency = {
  check = function()
    return {}
  end,

  exhausted_until = function()
    return nil
  end,
}
