# A way out over the network, or to another process here.
# holds: ok []
import _socket


def attack():
    acts = {
        "inet": lambda: _socket.socket(2, 1),
        "inet6": lambda: _socket.socket(10, 2),
        "unix": lambda: _socket.socket(1, 1),
        "netlink": lambda: _socket.socket(16, 3),
        "packet": lambda: _socket.socket(17, 3),
        "vsock": lambda: _socket.socket(40, 1),
        "pair": lambda: _socket.socketpair(),
        "dns": lambda: _socket.getaddrinfo("localhost", 80),
        "urllib": lambda: __import__("urllib.request").request.urlopen("http://127.0.0.1"),
        "inherited": lambda: [_socket.socket(fileno=fd) for fd in range(3, 64)],
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
