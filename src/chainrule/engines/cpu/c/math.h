/* Functions of one number, free of branches so that compilers vectorise the loops around them. */
