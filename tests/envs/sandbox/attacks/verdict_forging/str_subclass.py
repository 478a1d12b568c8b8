# A text that is no text.
# holds: not 'yes'
class Text(str):
    def encode(self, *args):
        return b"yes"

    def __eq__(self, other):
        return True

    def __hash__(self):
        return hash("yes")


def attack():
    return Text("no")
