"""Runs loraedit on the folders of published first-frame editing sets, and puts its figures beside the published ones.

cases      one clip with one edited first frame; what all forms share
anyv2v     the demo folder of AnyV2V               i2vedit    the clips of I2VEdit
editverse  EditVerseBench's first-frame subset     extras     your masks, references and prompts
jobs       cases to jobs.toml                      encoders   CLIP, DINOv2 and PickScore
measures   a finished edit to figures              figures    the published figures, and what ours may stand beside
page       the table                               run        from the folder to the page
"""
