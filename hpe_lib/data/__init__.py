"""People: who is annotated where, and the images.

reading, annotations          what files of others say
images, people                one protocol for images, one class for people
mpii, lsp, synthetic, drawn   each data set as people
datasets                      people by the name of their data set, and a run's choice of them
augment                       crops, changed at random, with their joints
check, download               what lies in a data folder, and how to get it there
"""
