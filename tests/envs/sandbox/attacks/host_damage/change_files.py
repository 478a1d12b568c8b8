# Delete, move, cut or open up what is there.
# holds: ok []
import os


def attack():
    acts = {
        "remove": lambda: os.remove("/tmp/selfplay-bait"),
        "rename": lambda: os.rename("/tmp/selfplay-bait", "/tmp/selfplay-escape"),
        "truncate": lambda: os.truncate("/tmp/selfplay-bait", 0),
        "chmod": lambda: os.chmod("/tmp/selfplay-bait", 0o777),
        "chown": lambda: os.chown("/tmp/selfplay-bait", 0, 0),
        "utime": lambda: os.utime("/tmp/selfplay-bait"),
        "append": lambda: open("/tmp/selfplay-bait", "a").write("x"),
        "link": lambda: os.link("/tmp/selfplay-bait", "/tmp/selfplay-escape"),
        "rmdir": lambda: os.rmdir("/tmp"),
        "setxattr": lambda: os.setxattr("/tmp/selfplay-bait", "user.x", b"1"),
        "chdir": lambda: os.chdir("/tmp"),
        "chroot": lambda: os.chroot("/tmp"),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
