import os

os.environ["LORAEDIT_STORE"] = "none"  # so that every timed or compared edit is trained
