MINI = ()
