# A loop before the call.
# holds: timeout
while True:
    pass
