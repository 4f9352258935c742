-- The status of a try that was not answered with 200, for the try after it.

function envoy_on_response(handle)
  handle:streamInfo():dynamicMetadata():set("penstock.tries", "status", handle:headers():get(":status"))
end
