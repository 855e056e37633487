"""A monitored inbox: batches are found, the new ones judged, recorded, and alerts announced.

========== =================================================================================
incoming   finds batches, knows those again that were judged, and reads the new ones
judging    opens the model that judges
record     makes of what was judged a line of the history, and of a line what it says
entries    what a line says
history    the lines, and what they say together
announcing tells W&B and a receiver of alerts
timeline   the page, which is made from the history
watch      one run over an inbox: all of these, in this order
========== =================================================================================
"""
