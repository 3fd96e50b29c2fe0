import os

os.environ["LORAEDIT_STORE"] = "none"  # what is timed or compared is trained
