-- Twin of per_event.py. It keeps no counter.
kinds.per_event = {
  check = function(limit, event)
    local amount = amount_of(event, limit.meters)
    if amount > 0 and limit.field then
      amount = event.metadata[limit.field] or 0
      if event.metadata[limit.field] ~= nil then
        local value = event.metadata[limit.field]
        if type(value) ~= 'number' or value ~= floor(value) or value < 0 or value > MAX_COUNTER then
          refuse('metadata_not_a_number', limit.field)
        end
      end
    end
    if amount <= limit.max then
      return {}
    end
    return { denies = limit.when_exceeded or 'stop', reason = 'event_too_large', retry_after_us = 0 }
  end,

  exhausted_until = function()
    return nil
  end,
}
